/** The status line of the remote jobs. It is set as text only, since it comes from other machines. */
import { remote } from "./remote_api.js";
import { make } from "./remote_elements.js";
import { activeJobs, onJobs, ownJobs, toast } from "./remote_state.js";

let line = null;
let timer = null;

export function showStatus() {
  onJobs(showEnds);
  onJobs(draw);
}

function draw() {
  const jobs = activeJobs();
  if (!jobs.length) return remove();
  line ??= build();
  timer ??= setInterval(draw, 1000);
  const front = jobs.find((job) => job.state === "running") ?? jobs[0];
  line.querySelector("span").textContent = sentence(front, jobs.length - 1);
  line.querySelector("progress").hidden = front.percent === null;
  line.querySelector("progress").value = front.percent ?? 0;
  line.querySelector("button").onclick = () => remote.cancel({ prompt_ids: [front.prompt_id] });
}

function sentence(job, others) {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - (job.started || job.created)));
  const time = seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `Remote: ${job.message || job.state}, ${time}${others ? ` (${others} more)` : ""}`;
}

function build() {
  const parts = [make("span"), make("progress", { max: 100 }), make("button", { textContent: "Cancel" })];
  const element = make("div", { className: "remote-serverless-status" }, ...parts);
  element.setAttribute("role", "status");
  document.body.append(element);
  return element;
}

function remove() {
  clearInterval(timer);
  line?.remove();
  line = timer = null;
}

/** Show the end of the jobs that other pages queued: ComfyUI shows only those of this page. */
function showEnds(now, before) {
  for (const job of now) {
    const was = before.find((other) => other.prompt_id === job.prompt_id);
    if (!was || was.state === job.state) continue;
    if (job.state === "failed" && !ownJobs.has(job.prompt_id)) toast("error", "A remote job failed", job.error, 20000);
    if (job.state === "done" && job.message) toast("warn", "Remote", job.message);
  }
}
