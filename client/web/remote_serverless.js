/** Comfy Remote Serverless: Remote ON/OFF and Remote Config in the top bar; the other modules do the rest. */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { remote } from "./remote_api.js";
import { openConfig } from "./remote_config.js";
import { make } from "./remote_elements.js";
import { divert, listRemoteJobs, resetSkipAfterRun, restore, wrapCancels } from "./remote_queue.js";
import { ENABLED, SKIP_MODELS, isOn, setJobs, setOn, setSkipModels, skipsModels } from "./remote_state.js";
import { showStatus } from "./remote_status.js";

const NAME = "RemoteServerless";
const ATTACH_AFTER_MS = 300;

/** The top bar's buttons. Their getters read reactive settings, so the bar repaints when one changes. */
const BUTTONS = [
  {
    icon: "pi pi-cloud",
    tooltip: "Run workflows on the remote endpoint instead of this computer",
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
    tooltip: "Next run: make the worker's models match repo_list, or leave them unchanged",
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
    tooltip: "Endpoint, API key and options of remote runs",
    class: "remote-serverless-button remote-serverless-config",
    onClick: () => openConfig(),
  },
];

/** Apply the Remote setting, which the button, the settings page, or the last visit may have set. */
function onSwitched() {
  if (isOn()) divert();
  else restore();
  for (const repaint of repaints) repaint();
}

const repaints = [];
let attachTimer = null;

/** Ask for this tab's jobs once its graph is loaded. */
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
  const href = new URL("./remote_serverless.css", import.meta.url).href;
  document.head.append(make("link", { rel: "stylesheet", href }));
}

// -- frontends without action bar buttons (before 1.32.4), and the old floating menu --

/** The bar exists once the Queue button does. If ours are not in it then, this frontend does not support them. */
async function addButtonsWhereMissing() {
  for (let tries = 0; tries < 40 && !document.querySelector('[data-testid="queue-button"]'); tries++) await pause(100);
  await pause(300);
  if (document.querySelector(".remote-serverless-toggle")) return;
  const home = app.menu?.settingsGroup?.element ?? app.ui?.menuContainer;
  home?.append(...BUTTONS.map(plainButton));
}

function plainButton(definition) {
  const button = make("button", { title: definition.tooltip, onclick: definition.onClick });
  const repaint = () => {
    button.textContent = definition.label;
    button.className = `comfyui-button ${definition.class}`;
  };
  repaints.push(repaint);
  repaint();
  return button;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const setting = (id, name) => ({
  id,
  name,
  category: ["Remote Serverless", "General", id.replace(`${NAME}.`, "")],
  type: "boolean",
  defaultValue: false,
  onChange: () => queueMicrotask(onSwitched), // the new value is readable only after this call
});

const extension = {
  name: NAME,
  actionBarButtons: BUTTONS,
  settings: [
    setting(ENABLED, "Run workflows on the remote endpoint"),
    setting(SKIP_MODELS, "Leave the worker's models unchanged in the next run"),
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

// Two copies of the pack would send every job, and cost, twice.
if (!window.__remoteServerless) {
  window.__remoteServerless = true;
  app.registerExtension(extension);
}
