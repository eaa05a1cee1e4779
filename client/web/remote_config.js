/** The settings in a plain HTML dialog, which works in every frontend. The key is sent and never returned. */
import { remote } from "./remote_api.js";

const FIELDS = [
  ["endpoint", "Endpoint", "text", "https://api.runpod.ai/v2/<ENDPOINT_ID>/run", "The address of /run, or only the id."],
  ["api_key", "API key", "password", "", "Saved on this computer in a file that only you can read. It is never shown again."],
  ["ms_per_step", "Fake ms/step", "number", "learned from finished jobs", "The assumed speed of workers that send no progress."],
  ["result_format", "Pictures as", "select", "", "WebP and JPEG are smaller, for results that are too large. WebP keeps the workflow."],
  ["previews", "Ask the worker for live previews", "checkbox", "", "Uses some bandwidth."],
  ["keep_copy", "Also put results into ./remote_results", "checkbox", "", "As links where the disk supports them, which need no space."],
  ["sidecars", "Save how each image was made beside it", "checkbox", "", "As .json, and as .txt in Civitai's format."],
];
const FORMATS = { original: "as the node saves them", webp: "WebP", jpeg: "JPEG" };
const BUCKET = [
  ["address", "Address", "text", "https://<account>.r2.cloudflarestorage.com", "Any S3-compatible store."],
  ["name", "Bucket", "text", "my-bucket", ""],
  ["region", "Region", "text", "read from the address", ""],
  ["access_key_id", "Access key id", "password", "", ""],
  ["secret_access_key", "Secret key", "password", "", "Saved like the API key. Both keys are used for this address only."],
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
  element.addEventListener("keydown", (event) => event.stopPropagation()); // else typing triggers shortcuts of the graph
  return element;
}

/** Closed at first: few users need it. */
function bucket() {
  const part = make("details", { className: "bucket" });
  const help = "Input files that do not fit into a job (10 MB) are uploaded to your own bucket, and the worker gets a link.";
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
  if (type === "password") input.autocomplete = "new-password"; // else the browser offers to save it
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

/** The bucket's fields if the user has changed one; values from the environment must not be saved. */
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

/** Set a field's value and its default, to which typedBucket compares. */
function show(input, value) {
  input.defaultValue = input.value = value;
}

const elements = () => dialog.querySelector("form").elements;
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
