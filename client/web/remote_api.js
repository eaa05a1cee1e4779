/** The requests from the page to the pack's routes. */
import { api } from "../../scripts/api.js";

/** Call a route. Return `{ok, status, answer}`; on an error, `answer.error` is a sentence or ComfyUI's error object. */
async function call(method, path, body) {
  const response = await api.fetchApi(`/remote/${path}`, {
    method,
    cache: "no-store",
    headers: { "Content-Type": "application/json", "X-Remote-Serverless": "1" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({ error: `ComfyUI answered ${response.status}.` }));
  return { ok: response.ok, status: response.status, answer };
}

export const remote = {
  run: (body) => call("POST", "run", body),
  attach: (body) => call("POST", "attach", body),
  cancel: (body) => call("POST", "cancel", body),
  config: () => call("GET", "config"),
  saveConfig: (changes) => call("POST", "config", changes),
  test: (values) => call("POST", "test", values),
};
