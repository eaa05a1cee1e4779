"""A custom-node pack whose nodes save in ways that ComfyUI's own do not."""

PACK = '''
import json, os
import folder_paths

class Costly:
    """Leaves a line wherever it runs."""
    CATEGORY, FUNCTION, RETURN_TYPES = "pack", "run", ("STRING",)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}
    def run(self, text):
        with open(os.path.join(folder_paths.base_path, "costly.txt"), "a") as file:
            file.write(text + "\\n")
        return (text,)

class SaveNote:
    """A format nobody knows, which carries the prompt and the workflow."""
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "pack", "save", (), True
    @classmethod
    def INPUT_TYPES(cls):
        hidden = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
        return {"required": {"text": ("STRING", {"forceInput": True})}, "hidden": hidden}
    def save(self, text, prompt=None, extra_pnginfo=None):
        output = folder_paths.get_output_directory()
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path("note", output)
        file = f"{name}_{number:05}_.note"
        with open(os.path.join(folder, file), "w") as out:
            json.dump({"prompt": prompt, **(extra_pnginfo or {})}, out)
        return {"ui": {"notes": [{"filename": file, "subfolder": subfolder, "type": "output"}]}}

class SavePictureAndNote(SaveNote):
    """Two files of one node, the picture with more in it than ComfyUI writes."""
    def save(self, text, prompt=None, extra_pnginfo=None):
        from PIL import Image, PngImagePlugin
        said = super().save(text, prompt, extra_pnginfo)["ui"]["notes"][0]
        info = PngImagePlugin.PngInfo()
        for name, value in {"prompt": prompt, **(extra_pnginfo or {})}.items():
            info.add_text(name, json.dumps(value))
        info.add_text("parameters", str(extra_pnginfo))
        file = said["filename"].replace(".note", ".png")
        Image.new("RGB", (8, 8)).save(os.path.join(folder_paths.get_output_directory(), file), pnginfo=info)
        return {"ui": {"notes": [said], "images": [{**said, "filename": file}]}}

class _All(dict):
    def __contains__(self, key):
        return True
    def __getitem__(self, key):
        return super().get(key, ("STRING", {}))

class SaveNoteStrictly(SaveNote):
    """Takes any input that it is sent, as some packs' nodes do, and dislikes this one."""
    @classmethod
    def INPUT_TYPES(cls):
        types = super().INPUT_TYPES()
        return {**types, "optional": _All()}
    def save(self, text, prompt=None, extra_pnginfo=None, **others):
        if others:
            raise ValueError(f"what is {others}?")
        return super().save(text, prompt, extra_pnginfo)

class Expands(SaveNote):
    """Becomes another node that saves."""
    def save(self, text, prompt=None, extra_pnginfo=None):
        from comfy_execution.graph_utils import GraphBuilder
        graph = GraphBuilder()
        graph.node("SaveNote", text=text)
        return {"result": (), "expand": graph.finalize()}

NODE_CLASS_MAPPINGS = {kind.__name__: kind for kind in (
    Costly, SaveNote, SavePictureAndNote, SaveNoteStrictly, Expands
)}
'''
