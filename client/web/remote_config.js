/** The settings in a dialog of the page's own kind, which every frontend has. The key goes in and never comes out. */
import { remote } from "./remote_api.js";

const FIELDS = [
  ["endpoint", "Endpoint", "text", "https://api.runpod.ai/v2/<ENDPOINT_ID>/run", "The address of /run, or just the id."],
  ["api_key", "API key", "password", "", "Kept on this computer in a file that only you can read; never shown again."],
  ["ms_per_step", "Fake ms/step", "number", "learned from finished jobs", "Only for workers that send no progress."],
  ["result_format", "Pictures as", "select", "", "WebP and JPEG make large answers fit; WebP keeps the workflow."],
  ["previews", "Ask the worker for live previews", "checkbox", "", "Costs some bandwidth."],
  ["keep_copy", "Also put results into ./remote_results", "checkbox", "", "Links, where the disk has them."],
  ["sidecars", "Save how each image was made beside it", "checkbox", "", "As .json, and as .txt in Civitai's style."],
];
const FORMATS = { original: "they were saved", webp: "WebP", jpeg: "JPEG" };
const BUCKET = [
  ["address", "Address", "text", "https://<account>.r2.cloudflarestorage.com", "Of any S3-compatible store."],
  ["name", "Bucket", "text", "my-bucket", ""],
  ["region", "Region", "text", "from the address", ""],
  ["access_key_id", "Access key id", "password", "", ""],
  ["secret_access_key", "Secret key", "password", "", "Kept like the API key; both stay for this address alone."],
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
  form.append(make("h2", { textContent: "Remote Config" }), ...FIELDS.map(row), bucket());
  const foot = make("div", { className: "foot" });
  foot.append(make("output", { name: "answer" }), buttons());
  form.append(foot);
  form.onsubmit = (event) => {
    event.preventDefault();
    save();
  };
  element.append(form);
  element.addEventListener("close", () => element.remove());
  element.addEventListener("keydown", (event) => event.stopPropagation()); // typing is no shortcut of the graph's
  return element;
}

/** Folded away: most people never need it. */
function bucket() {
  const part = make("details", { className: "bucket" });
  const help = "Input files that do not fit into a job (10 MB) go into your own bucket, and the worker gets a link.";
  part.append(make("summary", { textContent: "Bucket for large inputs" }), make("p", { textContent: help }));
  part.append(...BUCKET.map(([name, ...more]) => row([`bucket_${name}`, ...more])));
  part.append(make("button", { type: "button", name: "forget_bucket", textContent: "Forget bucket", onclick: forgetBucket }));
  return part;
}

function row([name, label, type, placeholder, help]) {
  const id = `remote-serverless-${name}`;
  const line = make("div", { className: type === "checkbox" ? "row check" : "row" });
  line.append(make("label", { htmlFor: id, textContent: label }), control(name, type, placeholder, id));
  line.append(make("small", { textContent: help }));
  return line;
}

function control(name, type, placeholder, id) {
  if (type === "select") {
    const choice = make("select", { name, id });
    choice.append(...Object.entries(FORMATS).map(([value, textContent]) => make("option", { value, textContent })));
    return choice;
  }
  const input = make("input", { name, type, placeholder, id, spellcheck: false });
  if (type === "password") input.autocomplete = "new-password"; // else the browser offers to keep it
  if (type === "number") Object.assign(input, { min: 1, max: 600000, step: 1 });
  return input;
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
  const { endpoint, api_key, ms_per_step, result_format, previews, keep_copy, sidecars, forget } = elements();
  endpoint.value = config.endpoint;
  ms_per_step.value = config.ms_per_step ?? "";
  if (config.learned_ms_per_step) ms_per_step.placeholder = `learned: ${Math.round(config.learned_ms_per_step)}`;
  previews.checked = config.previews;
  keep_copy.checked = config.keep_copy;
  sidecars.checked = config.sidecars;
  result_format.value = config.result_format;
  api_key.value = "";
  api_key.placeholder = keyState(config.key, "RUNPOD_API_KEY");
  forget.hidden = config.key.source !== "saved";
  fillBucket(config.bucket);
}

function fillBucket(bucket) {
  const fields = elements();
  for (const name of ["address", "name", "region"]) show(fields[`bucket_${name}`], bucket[name]);
  for (const name of ["access_key_id", "secret_access_key"]) {
    show(fields[`bucket_${name}`], "");
    fields[`bucket_${name}`].placeholder = keyState(bucket, "BUCKET_...");
  }
  fields.forget_bucket.hidden = bucket.source !== "saved";
  if (bucket.problem) say(bucket.problem, "bad");
}

function keyState(key, variable) {
  if (!key.configured) return "not configured";
  return key.source === "environment" ? `configured (${variable})` : "configured";
}

function typed() {
  const { endpoint, api_key } = elements();
  const bucket = typedBucket();
  return { endpoint: endpoint.value, ...(api_key.value && { api_key: api_key.value }), ...(bucket && { bucket }) };
}

/** The bucket's fields, when a person has changed one: what the environment says is not to be saved as typed. */
function typedBucket() {
  const inputs = BUCKET.map(([name]) => [name, elements()[`bucket_${name}`]]);
  if (inputs.every(([, input]) => input.value === input.defaultValue)) return null;
  return Object.fromEntries(inputs.map(([name, input]) => [name, input.value]));
}

async function save() {
  const { ms_per_step, result_format, previews, keep_copy, sidecars } = elements();
  const changes = {
    ...typed(),
    ms_per_step: ms_per_step.value === "" ? null : Number(ms_per_step.value),
    previews: previews.checked,
    keep_copy: keep_copy.checked,
    sidecars: sidecars.checked,
    result_format: result_format.value,
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

async function forgetBucket() {
  const { ok, answer } = await remote.saveConfig({ forget_bucket: true });
  if (!ok) return say(answer.error, "bad");
  fill(answer);
  say("The saved bucket and its keys are removed from this computer.", "good");
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

/** Give a field its value, as the one from which changes are told. */
function show(input, value) {
  input.defaultValue = input.value = value;
}

const elements = () => dialog.querySelector("form").elements;
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
