/** The page's state: the two switches, saved in ComfyUI's settings, and the jobs. It holds no secret. */
import { app } from "../../scripts/app.js";

export const ENABLED = "RemoteServerless.Enabled";
export const SKIP_MODELS = "RemoteServerless.SkipModels";

const settings = () => app.extensionManager?.setting;

export const isOn = () => settings()?.get(ENABLED) === true;
export const skipsModels = () => settings()?.get(SKIP_MODELS) === true;
export const setOn = (on) => settings().set(ENABLED, on);
export const setSkipModels = (skip) => settings().set(SKIP_MODELS, skip);

const OVER = ["done", "failed", "cancelled"];
const listeners = new Set();
let jobs = [];
let newest = 0;

/** Jobs that this page itself has queued: ComfyUI's own dialogs show their end. */
export const ownJobs = new Set();

export const allJobs = () => jobs;
export const activeJobs = () => jobs.filter((job) => !OVER.includes(job.state));
export const isActive = (id) => activeJobs().some((job) => job.prompt_id === id);

/** Take a list, `{seq, jobs}`, if it is newer: events and answers may arrive out of order. */
export function setJobs(list) {
  if (!(list?.seq >= newest) || !Array.isArray(list.jobs)) return;
  newest = list.seq;
  const before = jobs;
  jobs = list.jobs;
  for (const listener of listeners) listener(jobs, before);
}

export const onJobs = (listener) => listeners.add(listener);

export function toast(severity, summary, detail, life = 8000) {
  app.extensionManager?.toast?.add({ severity, summary, detail, life });
}
