"""`--extra-model-paths-config`: more model folders, from the part of YAML that such files use in practice.

Sections, one level of keys below them, quoted or plain values, and `|` blocks with one folder a line.
"""

from __future__ import annotations

from pathlib import Path

from folder_paths import add_model_folder_path


def load_extra_path_config(yaml_path: str) -> None:
    """Add every folder that the file names."""
    for settings in _sections(Path(yaml_path).read_text().splitlines()).values():
        base = Path(settings.pop("base_path", "."))
        first = settings.pop("is_default", "false").lower() == "true"
        for kind, folders in settings.items():
            for folder in folders.splitlines():
                add_model_folder_path(kind, str((Path(yaml_path).parent / base / folder).absolute()), first)


def _sections(lines: list[str]) -> dict[str, dict[str, str]]:
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    key = ""
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text or text.startswith("#"):
            continue
        if indent == 0:
            current = sections.setdefault(text.rstrip(":"), {})
        elif indent <= 2:
            key, _, value = (part.strip() for part in text.partition(":"))
            current[key] = "" if value == "|" else value.strip("'\"").replace("''", "'")
        else:
            current[key] = f"{current[key]}\n{text}".strip()
    return sections
