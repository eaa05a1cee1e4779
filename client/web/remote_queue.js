/** Queue and cancel: replaces methods of ComfyUI's `api`, which the whole page uses. */
import { app } from "../../scripts/app.js";
import { api, PromptExecutionError } from "../../scripts/api.js";
import { remote } from "./remote_api.js";
import { activeJobs, isActive, isOn, ownJobs, setSkipModels, skipsModels } from "./remote_state.js";

let local = null; // the original api.queuePrompt while ours replaces it
let wasOwn = false;
let agreedMode = null;

/** Send the Queue button's prompts to the endpoint. */
export function divert() {
  if (local) return;
  wasOwn = Object.hasOwn(api, "queuePrompt");
  local = api.queuePrompt;
  api.queuePrompt = queueRemotely;
}

/** Restore the original. If another pack has wrapped ours since, ours stays and calls the original. */
export function restore() {
  agreedMode = null;
  if (!local || api.queuePrompt !== queueRemotely) return;
  if (wasOwn) api.queuePrompt = local;
  else delete api.queuePrompt;
  local = null;
}

async function queueRemotely(number, data, ...rest) {
  if (!isOn()) return local.call(this, number, data, ...rest);
  await agreeToAutoQueue();
  const options = rest[0] ?? {};
  const extra = { extra_pnginfo: { workflow: data.workflow } };
  if (options.previewMethod && options.previewMethod !== "default") extra.preview_method = options.previewMethod;
  const { ok, status, answer } = await remote.run({
    client_id: api.clientId ?? "",
    prompt: data.output,
    extra_data: extra,
    partial_execution_targets: options.partialExecutionTargets ?? null,
    remote: { skip_repo_list: skipsModels() },
  });
  if (!ok) throw promptError(answer, status);
  ownJobs.add(answer.prompt_id);
  return answer;
}

/** Return ComfyUI's own error, so that its panel shows it and marks the node. */
function promptError(answer, status) {
  const error =
    typeof answer.error === "object" && answer.error
      ? answer.error
      : { type: "remote_serverless", message: String(answer.error ?? "The job was not accepted."), details: "", extra_info: {} };
  return new PromptExecutionError({ error, node_errors: answer.node_errors ?? {} }, status);
}

function queueSettings() {
  const found = app.extensionManager?.queueSettings;
  return found?.value ?? found;
}

/** Ask once each time auto-queue is switched on: it spends money for as long as the page is open. */
async function agreeToAutoQueue() {
  const settings = queueSettings();
  const mode = settings?.mode ?? "disabled";
  if (mode === "disabled") agreedMode = null;
  if (mode === "disabled" || mode === agreedMode) return;
  const when = mode === "change" ? "after every change" : "again and again until you stop it";
  const agreed = await app.extensionManager.dialog.confirm({
    title: "Auto-queue with Remote ON",
    message: `Auto-queue will send this workflow to the endpoint ${when}, and each job costs money. Continue?`,
    type: "default",
  });
  if (agreed !== true) {
    settings.mode = "disabled";
    throw new Error("Nothing was sent. Auto-queue is now off; Remote is still ON.");
  }
  agreedMode = mode;
}

/** Reset "skip models" when the whole batch is queued: it is a switch for one run. */
export function resetSkipAfterRun() {
  api.addEventListener("promptQueued", () => {
    if (isOn() && skipsModels()) setSkipModels(false);
  });
}

// -- cancel --

const cancel = (ids) => remote.cancel({ prompt_ids: ids });

/** ComfyUI's ways to cancel, extended to remote jobs; local jobs go to the original. */
const CANCELS = {
  async interrupt(own, id, ...rest) {
    if (id && isActive(id)) return void (await cancel([id]));
    const hasRemote = activeJobs().some((job) => job.client_id === api.clientId);
    if (!id && hasRemote) return void (await remote.cancel({ client_id: api.clientId, front: true }));
    return own(id, ...rest);
  },
  async cancelJob(own, id, ...rest) {
    return isActive(id) ? void (await cancel([id])) : own(id, ...rest);
  },
  async cancelJobs(own, ids, ...rest) {
    const ours = ids.filter(isActive);
    if (ours.length) await cancel(ours);
    const others = ids.filter((id) => !ours.includes(id));
    return others.length ? own(others, ...rest) : undefined;
  },
  async deleteItem(own, type, id, ...rest) {
    return type === "queue" && isActive(id) ? void (await cancel([id])) : own(type, id, ...rest);
  },
  async clearItems(own, type, ...rest) {
    const waiting = type === "queue" ? activeJobs().filter((job) => job.state !== "running") : [];
    if (waiting.length) await cancel(waiting.map((job) => job.prompt_id));
    return own(type, ...rest);
  },
};

export function wrapCancels() {
  for (const [name, wrapped] of Object.entries(CANCELS)) {
    if (typeof api[name] !== "function") continue;
    const own = api[name].bind(api);
    api[name] = (...args) => wrapped(own, ...args);
  }
}

// -- the queue's list --

/** Add the remote jobs to ComfyUI's lists; else newer pages drop a running job when the socket reconnects. */
export function listRemoteJobs() {
  const own = api.getQueue.bind(api);
  const isNew = typeof api.getJobDetail === "function";
  api.getQueue = async (...args) => {
    const found = await own(...args);
    for (const job of activeJobs()) {
      const list = job.state === "running" ? "Running" : "Pending";
      found[list] = [...(found[list] ?? []), isNew ? newItem(job) : oldItem(job, list)];
    }
    return found;
  };
}

const newItem = (job) => ({
  id: job.prompt_id,
  status: job.state === "running" ? "in_progress" : "pending",
  create_time: Math.round(job.created * 1000),
  priority: job.number,
  ...(job.workflow_id && { workflow_id: job.workflow_id }),
});

const oldItem = (job, taskType) => ({
  taskType,
  prompt: [job.number, job.prompt_id, {}, { client_id: job.client_id, extra_pnginfo: {} }, []],
  ...(taskType === "Running" && { remove: { name: "Cancel", cb: () => cancel([job.prompt_id]) } }),
});
