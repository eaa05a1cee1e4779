/** Comfy Remote Serverless: Remote ON/OFF and Remote Config in the top bar; the rest is in the modules beside this one. */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { remote } from "./remote_api.js";
import { openConfig } from "./remote_config.js";
import { divert, listRemoteJobs, resetSkipAfterRun, restore, wrapCancels } from "./remote_queue.js";
import { ENABLED, SKIP_MODELS, isOn, setJobs, setOn, setSkipModels, skipsModels } from "./remote_state.js";
import { showStatus } from "./remote_status.js";

const NAME = "RemoteServerless";
const ATTACH_AFTER_MS = 300;

/** What stands in the top bar. The getters read reactive settings while the bar renders, so it repaints by itself. */
const BUTTONS = [
  {
    icon: "pi pi-cloud",
    tooltip: "Run the queue on the remote endpoint instead of this computer",
    get label() {
      return isOn() ? "Remote: ON" : "Remote: OFF";
    },
    get class() {
      return `remote-serverless-button remote-serverless-toggle${isOn() ? " remote-serverless-on" : ""}`;
    },
    onClick: () => setOn(!isOn()),
  },
  {
    icon: "pi pi-box",
    tooltip: "Models in the next run: as repo_list says, or left alone on the worker",
    get label() {
      return skipsModels() ? "Models: skip" : "Models: repo_list";
    },
    get class() {
      const state = isOn() ? (skipsModels() ? " remote-serverless-on" : "") : " remote-serverless-hidden";
      return `remote-serverless-button remote-serverless-models${state}`;
    },
    onClick: () => setSkipModels(!skipsModels()),
  },
  {
    icon: "pi pi-cog",
    label: "Remote Config",
    tooltip: "Endpoint and API key of the remote runs",
    class: "remote-serverless-button remote-serverless-config",
    onClick: () => openConfig(),
  },
];

/** Switching Remote is one setting, whoever sets it: the button, the settings page, or the last visit. */
function onSwitched() {
  if (isOn()) divert();
  else restore();
  for (const repaint of repaints) repaint();
}

const repaints = [];
let attachTimer = null;

/** Ask for this tab's jobs, once the graph that they belong to is there. */
function attachSoon() {
  clearTimeout(attachTimer);
  attachTimer = setTimeout(async () => {
    const graph = app.rootGraph ?? app.graph;
    const { ok, answer } = await remote.attach({ client_id: api.clientId ?? "", workflow_id: String(graph?.id ?? "") });
    if (!ok) return;
    setJobs(answer);
    for (const wait of [0, 400]) setTimeout(() => app.canvas?.setDirty(true, true), wait); // pictures appear on drawing
  }, ATTACH_AFTER_MS);
}

function addStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./remote_serverless.css", import.meta.url).href;
  document.head.append(link);
}

// -- frontends without action bar buttons (before 1.32.4), and the old floating menu --

/** The bar is there once the Queue button is; ours are either in it by then, or this frontend does not know them. */
async function addButtonsWhereMissing() {
  for (let tries = 0; tries < 40 && !document.querySelector('[data-testid="queue-button"]'); tries++) await pause(100);
  await pause(300);
  if (document.querySelector(".remote-serverless-toggle")) return;
  const home = app.menu?.settingsGroup?.element ?? app.ui?.menuContainer;
  home?.append(...BUTTONS.map(plainButton));
}

function plainButton(definition) {
  const button = document.createElement("button");
  button.title = definition.tooltip;
  button.onclick = definition.onClick;
  const repaint = () => {
    button.textContent = definition.label;
    button.className = `comfyui-button ${definition.class}`;
  };
  repaints.push(repaint);
  repaint();
  return button;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const extension = {
  name: NAME,
  actionBarButtons: BUTTONS,
  settings: [
    {
      id: ENABLED,
      name: "Run the queue on the remote endpoint",
      category: ["Remote Serverless", "General", "Enabled"],
      type: "boolean",
      defaultValue: false,
      onChange: () => queueMicrotask(onSwitched), // the new value is in place only after this call
    },
    {
      id: SKIP_MODELS,
      name: "Leave the worker's models alone in the next run",
      category: ["Remote Serverless", "General", "SkipModels"],
      type: "boolean",
      defaultValue: false,
      onChange: () => queueMicrotask(onSwitched),
    },
  ],
  commands: [
    { id: `${NAME}.Toggle`, label: "Remote: switch ON or OFF", icon: "pi pi-cloud", function: () => setOn(!isOn()) },
    { id: `${NAME}.Config`, label: "Remote Config", icon: "pi pi-cog", function: () => openConfig() },
  ],
  setup() {
    addStyle();
    wrapCancels();
    listRemoteJobs();
    resetSkipAfterRun();
    showStatus();
    api.addEventListener(`remote_serverless.jobs`, ({ detail }) => setJobs(detail));
    api.addEventListener("reconnected", attachSoon);
    onSwitched();
    addButtonsWhereMissing();
    attachSoon();
  },
  afterConfigureGraph: attachSoon,
};

// Two copies of the pack would send, and bill, every job twice.
if (!window.__remoteServerless) {
  window.__remoteServerless = true;
  app.registerExtension(extension);
}
