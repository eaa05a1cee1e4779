/** The settings in a dialog of the page's own kind, which every frontend has. The key goes in and never comes out. */
import { remote } from "./remote_api.js";

const FIELDS = [
  ["endpoint", "Endpoint", "text", "https://api.runpod.ai/v2/<ENDPOINT_ID>/run", "The address of /run, or just the id."],
  ["api_key", "API key", "password", "", "Kept on this computer in a file that only you can read; never shown again."],
  ["ms_per_step", "Fake ms/step", "number", "learned from finished jobs", "Only for workers that send no progress."],
  ["previews", "Ask the worker for live previews", "checkbox", "", "Costs some bandwidth."],
  ["keep_copy", "Also put results into ./remote_results", "checkbox", "", "Links, where the disk has them."],
];

let dialog = null;

export async function openConfig() {
  dialog?.remove();
  const { ok, answer } = await remote.config();
  dialog = build();
  document.body.append(dialog);
  if (ok) fill(answer);
  else say(answer.error, "bad");
  dialog.showModal();
}

function build() {
  const element = make("dialog", { className: "remote-serverless-dialog" });
  const form = make("form", { method: "dialog", autocomplete: "off" });
  form.append(make("h2", { textContent: "Remote Config" }), ...FIELDS.map(row), make("output", { name: "answer" }));
  form.append(buttons());
  form.onsubmit = (event) => {
    event.preventDefault();
    save();
  };
  element.append(form);
  element.addEventListener("close", () => element.remove());
  element.addEventListener("keydown", (event) => event.stopPropagation()); // typing is no shortcut of the graph's
  return element;
}

function row([name, label, type, placeholder, help]) {
  const input = make("input", { name, type, placeholder, id: `remote-serverless-${name}`, spellcheck: false });
  if (type === "password") input.autocomplete = "new-password"; // else the browser offers to keep it
  if (type === "number") Object.assign(input, { min: 1, max: 600000, step: 1 });
  const line = make("div", { className: type === "checkbox" ? "row check" : "row" });
  line.append(make("label", { htmlFor: input.id, textContent: label }), input, make("small", { textContent: help }));
  return line;
}

function buttons() {
  const bar = make("div", { className: "buttons" });
  const forget = make("button", { type: "button", name: "forget", textContent: "Forget key", onclick: forgetKey });
  bar.append(
    make("button", { type: "button", name: "test", textContent: "Test", onclick: test }),
    forget,
    make("button", { type: "button", name: "close", textContent: "Close", onclick: () => dialog.close() }),
    make("button", { type: "submit", name: "save", textContent: "Save" }),
  );
  return bar;
}

function fill(config) {
  const { endpoint, api_key, ms_per_step, previews, keep_copy, forget } = elements();
  endpoint.value = config.endpoint;
  ms_per_step.value = config.ms_per_step ?? "";
  if (config.learned_ms_per_step) ms_per_step.placeholder = `learned: ${Math.round(config.learned_ms_per_step)}`;
  previews.checked = config.previews;
  keep_copy.checked = config.keep_copy;
  api_key.value = "";
  api_key.placeholder = keyState(config.key);
  forget.hidden = config.key.source !== "saved";
}

function keyState(key) {
  if (!key.configured) return "not configured";
  return key.source === "environment" ? "configured (RUNPOD_API_KEY)" : "configured";
}

function typed() {
  const { endpoint, api_key } = elements();
  return { endpoint: endpoint.value, ...(api_key.value && { api_key: api_key.value }) };
}

async function save() {
  const { ms_per_step, previews, keep_copy } = elements();
  const changes = {
    ...typed(),
    ms_per_step: ms_per_step.value === "" ? null : Number(ms_per_step.value),
    previews: previews.checked,
    keep_copy: keep_copy.checked,
  };
  const { ok, answer } = await remote.saveConfig(changes);
  if (!ok) return say(answer.error, "bad");
  fill(answer);
  say(answer.key.configured ? "Saved." : "Saved. There is no API key for this endpoint yet.", "good");
}

async function forgetKey() {
  const { ok, answer } = await remote.saveConfig({ forget_key: true });
  if (!ok) return say(answer.error, "bad");
  fill(answer);
  say("The saved key is removed from this computer.", "good");
}

async function test() {
  say("Asking the endpoint ...", "");
  const { ok, answer } = await remote.test(typed());
  say(ok ? answer.message : answer.error, ok && answer.ok ? "good" : "bad");
}

function say(text, kind) {
  const { answer } = elements();
  answer.className = kind;
  answer.textContent = String(text ?? "");
}

const elements = () => dialog.querySelector("form").elements;
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
