/** Queue and cancel: the instance methods of ComfyUI's `api` that everything in the page goes through. */
import { app } from "../../scripts/app.js";
import { api, PromptExecutionError } from "../../scripts/api.js";
import { remote } from "./remote_api.js";
import { activeJobs, isActive, isOn, ownJobs, setSkipModels, skipsModels } from "./remote_state.js";

let local = null; // api.queuePrompt as it was, while ours is in its place
let wasOwn = false;
let agreedMode = null;

/** Divert the Queue button. */
export function divert() {
  if (local) return;
  wasOwn = Object.hasOwn(api, "queuePrompt");
  local = api.queuePrompt;
  api.queuePrompt = queueRemotely;
}

/** Put everything back. Where another pack has wrapped ours since, ours stays below it and only passes on. */
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
  if (!ok) throw refusal(answer, status);
  ownJobs.add(answer.prompt_id);
  return answer;
}

/** ComfyUI's own error, so that its own panel shows it and marks the node. */
function refusal(answer, status) {
  const error =
    typeof answer.error === "object" && answer.error
      ? answer.error
      : { type: "remote_serverless", message: String(answer.error ?? "Remote refused."), details: "", extra_info: {} };
  return new PromptExecutionError({ error, node_errors: answer.node_errors ?? {} }, status);
}

function queueSettings() {
  const found = app.extensionManager?.queueSettings;
  return found?.value ?? found;
}

/** Auto-queue spends money for as long as the page is open: once asked for each time it is switched on. */
async function agreeToAutoQueue() {
  const settings = queueSettings();
  const mode = settings?.mode ?? "disabled";
  if (mode === "disabled") agreedMode = null;
  if (mode === "disabled" || mode === agreedMode) return;
  const when = mode === "change" ? "after every change" : "again and again, without end";
  const agreed = await app.extensionManager.dialog.confirm({
    title: "Auto-queue with Remote ON",
    message: `Auto-queue would send this workflow to the endpoint ${when}, and each job costs money. Go on?`,
    type: "default",
  });
  if (agreed !== true) {
    settings.mode = "disabled";
    throw new Error("Nothing was sent: auto-queue is switched off now, and Remote is still ON.");
  }
  agreedMode = mode;
}

/** A switch for one run: it goes back by itself when the whole batch is queued. */
export function resetSkipAfterRun() {
  api.addEventListener("promptQueued", () => {
    if (isOn() && skipsModels()) setSkipModels(false);
  });
}

// -- cancel --

const cancel = (ids) => remote.cancel({ prompt_ids: ids });

/** ComfyUI's ways to cancel, each for our jobs as well; a job that is not ours passes through untouched. */
const CANCELS = {
  async interrupt(own, id, ...rest) {
    if (id && isActive(id)) return void (await cancel([id]));
    const mine = activeJobs().some((job) => job.client_id === api.clientId);
    if (!id && mine) return void (await remote.cancel({ client_id: api.clientId, front: true }));
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

/** The remote jobs in ComfyUI's own lists: without that, newer pages forget a running job when the socket reconnects. */
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
