/** The settings in a plain HTML dialog, which works in every frontend. The key is sent and never returned. */
import { remote } from "./remote_api.js";
import { make } from "./remote_elements.js";

const FIELDS = [
  ["endpoint", "Endpoint", "text", "https://api.runpod.ai/v2/<ENDPOINT_ID>/run", "The address of /run, or only the id."],
  ["api_key", "API key", "password", "", "Saved on this computer in a file that only you can read. It is never shown again."],
  ["ms_per_step", "Fake ms/step", "number", "learned from finished jobs", "The assumed speed of workers that send no progress."],
  ["result_format", "Pictures as", "select", "", "WebP and JPEG are smaller, for results that are too large. WebP keeps the workflow."],
  ["previews", "Ask the worker for live previews", "checkbox", "", "Uses some bandwidth."],
  ["keep_copy", "Also put results into ./remote_results", "checkbox", "", "As links where the disk supports them, which need no space."],
  ["sidecars", "Save how each image was made beside it", "checkbox", "", "As .json, and as .txt in Civitai's format."],
];
const CHECKBOXES = FIELDS.filter(([, , type]) => type === "checkbox").map(([name]) => name);
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
  const title = make("h2", { textContent: "Remote Config" });
  const foot = make("div", { className: "foot" }, make("output", { name: "answer" }), buttons());
  const form = make("form", { method: "dialog", autocomplete: "off" }, title, ...FIELDS.map(row), bucket(), foot);
  form.onsubmit = (event) => {
    event.preventDefault();
    save();
  };
  const element = make("dialog", { className: "remote-serverless-dialog" }, form);
  element.addEventListener("close", () => element.remove());
  element.addEventListener("keydown", (event) => event.stopPropagation()); // else typing triggers shortcuts of the graph
  return element;
}

/** Closed at first: few users need it. */
function bucket() {
  const title = make("summary", { textContent: "Bucket for large inputs" });
  const help = "Input files that do not fit into a job (10 MB) are uploaded to your own bucket, and the worker gets a link.";
  const rows = BUCKET.map(([name, ...more]) => row([`bucket_${name}`, ...more]));
  const forget = button("forget_bucket", "Forget bucket", forgetBucket);
  return make("details", { className: "bucket" }, title, make("p", { textContent: help }), ...rows, forget);
}

function row([name, label, type, placeholder, help]) {
  const id = `remote-serverless-${name}`;
  const className = type === "checkbox" ? "row check" : "row";
  const title = make("label", { htmlFor: id, textContent: label });
  return make("div", { className }, title, control(name, type, placeholder, id), make("small", { textContent: help }));
}

function control(name, type, placeholder, id) {
  if (type === "select") {
    const options = Object.entries(FORMATS).map(([value, textContent]) => make("option", { value, textContent }));
    return make("select", { name, id }, ...options);
  }
  const input = make("input", { name, type, placeholder, id, spellcheck: false });
  if (type === "password") input.autocomplete = "new-password"; // else the browser offers to save it
  if (type === "number") Object.assign(input, { min: 1, max: 600000, step: 1 });
  return input;
}

function buttons() {
  return make(
    "div",
    { className: "buttons" },
    button("test", "Test", test),
    button("forget", "Forget key", forgetKey),
    button("close", "Close", () => dialog.close()),
    make("button", { type: "submit", name: "save", textContent: "Save" }),
  );
}

function fill(config) {
  const fields = elements();
  fields.endpoint.value = config.endpoint;
  fields.ms_per_step.value = config.ms_per_step ?? "";
  if (config.learned_ms_per_step) fields.ms_per_step.placeholder = `learned: ${Math.round(config.learned_ms_per_step)}`;
  for (const name of CHECKBOXES) fields[name].checked = config[name];
  fields.result_format.value = config.result_format;
  fields.api_key.value = "";
  fields.api_key.placeholder = keyState(config.key, "RUNPOD_API_KEY");
  fields.forget.hidden = config.key.source !== "saved";
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

function save() {
  const fields = elements();
  const changes = {
    ...typed(),
    ...Object.fromEntries(CHECKBOXES.map((name) => [name, fields[name].checked])),
    ms_per_step: fields.ms_per_step.value === "" ? null : Number(fields.ms_per_step.value),
    result_format: fields.result_format.value,
  };
  return change(changes, ({ key }) => (key.configured ? "Saved." : "Saved. There is no API key for this endpoint yet."));
}

const forgetKey = () => change({ forget_key: true }, () => "The saved key is removed from this computer.");
const forgetBucket = () =>
  change({ forget_bucket: true }, () => "The saved bucket and its keys are removed from this computer.");

/** Save changes, and show the new settings with the sentence that `message` makes of them. */
async function change(changes, message) {
  const { ok, answer } = await remote.saveConfig(changes);
  if (!ok) return say(answer.error, "bad");
  fill(answer);
  say(message(answer), "good");
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
const button = (name, textContent, onclick) => make("button", { type: "button", name, textContent, onclick });
