// The operator page: shows what comes over one websocket, and sends commands as requests.
// All text goes through textContent, so that nothing from the robot is read as HTML.
"use strict";

const SILENCE = 800; // ms without a message after which the link is gone; the server sends every 200
const GIVEN_UP = 5000; // ms without a message after which another link is tried
const RETRY = 500; // ms
const FROZEN = 1500; // ms without a new image after which a camera's image is called old
const REPLACED = 4001; // the server's reason for closing: this viewer has opened another connection
const STATE_CLASSES = {
  executing: "good", idle: "", waiting: "", holding: "warn", stopped: "warn", "emergency stopped": "bad",
};
const LEVEL_CLASSES = { ok: "good", warn: "warn", error: "bad", silent: "bad" };
const STAGE_CLASSES = {
  camera: "camera", perception: "perception", "action expert": "action-expert", control: "control",
};
const BESIDE = "reasoning"; // runs beside the other stages
const TOTAL = "light to command";

const byId = (id) => document.getElementById(id);
const viewer = { number: 0, key: sessionStorage.getItem("viewer") || "", imagePeriod: 0 };
let state = null;
let heardAt = -Infinity;
const drawnAt = {}; // when the newest image of each camera came
let older = "";

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function setText(element, text, className) {
  // Only changes, so that a screen reader does not repeat what stays.
  if (element.textContent !== text) element.textContent = text;
  if (className !== undefined && element.className !== className) element.className = className;
}

// Replaces the children where what they show has changed, so that focus and open details survive.
function show(container, values, build) {
  const key = JSON.stringify(values);
  if (container.dataset.shown === key) return;
  container.dataset.shown = key;
  container.replaceChildren(...values.map(build));
}

// The link

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/live?key=${encodeURIComponent(viewer.key)}`);
  const begun = performance.now();
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    heardAt = performance.now();
    if (typeof data === "string") take(JSON.parse(data), socket);
    else drawPicture(data, socket);
  };
  socket.onclose = ({ code }) => {
    if (code === REPLACED) viewer.key = "";
    clearInterval(watch);
    setTimeout(connect, RETRY);
  };
  // A link that is silent but not closed is given up; not at once, since what came may wait its turn.
  let missed = 0;
  const watch = setInterval(() => {
    missed = Math.min(silence(), performance.now() - begun) > GIVEN_UP ? missed + 1 : 0;
    if (missed > 2) socket.close();
  }, SILENCE);
}

const silence = () => performance.now() - heardAt;

// Tells the server that the newest of a topic may come; a browser that is slow gets fewer.
function shown(topic, socket) {
  if (socket.readyState === WebSocket.OPEN) socket.send(topic);
}

function take(message, socket) {
  if (message.type === "hello") {
    const imagePeriod = 1000 * message.image_period;
    Object.assign(viewer, { number: message.number, key: message.key, imagePeriod });
    sessionStorage.setItem("viewer", viewer.key);
    const name = `${message.robot} ${message.namespace === "/" ? "" : message.namespace}`;
    setText(byId("robot"), name.trim());
    show(byId("cameras"), message.cameras, makeCamera);
    listEpisodes();
  } else {
    state = message;
    showState();
    shown("state", socket);
  }
}

function showLink() {
  const lost = silence() > SILENCE;
  let text = "";
  if (lost) text = "The link to the robot is gone. Reconnecting. Use the robot's own stop.";
  else if (state && state.silence === null) text = "The graph is not there: no controller was heard.";
  else if (state && !state.alive) text = `The graph is gone: the controller is silent for ${state.silence} s.`;
  const banner = byId("lost");
  banner.hidden = !text;
  setText(banner, text);
  document.body.classList.toggle("lost", lost);
  const mine = !lost && state !== null && state.operator === viewer.number;
  for (const button of document.querySelectorAll("[data-control]")) button.disabled = !mine;
  byId("take").hidden = mine;
  byId("give").hidden = !mine;
  showFrozen();
}

// An old image must not pass for what the camera sees now.
function showFrozen() {
  for (const [camera, at] of Object.entries(drawnAt)) {
    const age = performance.now() - at;
    const frozen = age > Math.max(FROZEN, 3 * viewer.imagePeriod);
    const canvas = byId(`camera-${camera}`);
    canvas.classList.toggle("frozen", frozen);
    if (frozen) setText(canvas.nextSibling, `${camera}: no new image for ${Math.floor(age / 1000)} s`, "warn");
  }
}

// What is shown

function showState() {
  const policy = state.policy;
  setText(byId("state"), state.alive ? policy.state : "no graph",
    `badge ${state.alive ? STATE_CLASSES[policy.state] || "" : "bad"}`);
  const operator = state.operator === null ? "nobody has control"
    : state.operator === viewer.number ? "you have control" : `viewer ${state.operator} has control`;
  setText(byId("control"), `${operator} (you are viewer ${viewer.number} of ${state.viewers})`);
  if (policy) showPolicy(policy);
  setText(byId("checkpoint"), state.checkpoint || "not known");
  show(byId("answers"), state.answers, (answer) => {
    const seconds = answer.seconds === null ? "" : ` (${answer.seconds.toFixed(2)} s)`;
    return make("li", `${answer.prompt}: ${answer.text}${seconds}`);
  });
  showStages(state.stages);
  const limits = state.limits.length ? state.limits : [{ reason: "none so far", count: 0, now: false }];
  show(byId("limits"), limits, ({ reason, count, now }) =>
    make("li", `${reason}${count ? `: ${count} steps` : ""}${now ? ", now" : ""}`, now ? "warn" : ""));
  showDiagnostics(state.diagnostics);
  const recording = state.recording;
  setText(byId("recording"), recording.episode ? `recording ${recording.episode}`
    : `no episode is recorded${recording.message ? ` (last: ${recording.message})` : ""}`);
  showLink();
}

function showPolicy(policy) {
  setText(byId("told"), policy.instruction ? policy.instruction + (policy.mode ? ` (${policy.mode})` : "") : "nothing");
  setText(byId("does"), policy.state + (policy.settled ? ", settled" : ""));
  const why = [policy.reason, policy.message].filter(Boolean).join(": ");
  setText(byId("why"), why || "it does not", why ? "warn" : "");
  const age = policy.chunk_age === null ? "" : `, the newest ${policy.chunk_age.toFixed(2)} s old`;
  setText(byId("chunks"), `${policy.accepted} used, ${policy.rejected} refused${age}; ` +
    `${policy.limited} limited steps; execution ${policy.execution}`);
}

function showStages(stages) {
  const line = stages.filter(({ stage }) => stage !== BESIDE && stage !== TOTAL);
  const text = stages.map(({ stage, ms }) => `${stage} ${ms} ms`);
  byId("strip").setAttribute("aria-label", text.join(", ") || "No delays are known yet");
  show(byId("strip"), line, ({ stage, ms }) => {
    const part = make("span", "", STAGE_CLASSES[stage] || "other");
    part.style.flexGrow = Math.max(ms, 0.5);
    return part;
  });
  show(byId("delays"), stages, ({ stage, ms }) =>
    make("li", `${stage} ${ms} ms`, STAGE_CLASSES[stage] || "other"));
}

function showDiagnostics(nodes) {
  const container = byId("diagnostics");
  show(container, nodes.map(({ node }) => node), (node) => {
    const details = make("details");
    details.dataset.node = node;
    details.append(make("summary"), make("dl"));
    return details;
  });
  for (const [index, { node, level, message, values }] of nodes.entries()) {
    const [summary, list] = container.children[index].children;
    setText(summary, `${node}: ${level}${message === level ? "" : `, ${message}`}`, LEVEL_CLASSES[level] || "");
    // Hidden figures are not worth the work.
    if (!container.children[index].open) continue;
    show(list, values.flatMap(([key, value]) => [["dt", key], ["dd", value]]), ([tag, text]) => make(tag, text));
  }
}

// Cameras

function makeCamera(name) {
  const figure = make("figure");
  const canvas = make("canvas");
  canvas.id = `camera-${name}`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Camera ${name}`);
  figure.append(canvas, make("figcaption", `${name}: no image yet`));
  return figure;
}

async function drawPicture(buffer, socket) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const canvas = byId(`camera-${header.camera}`);
  const image = await createImageBitmap(new Blob([new Uint8Array(buffer, 4 + length)], { type: "image/jpeg" }));
  // Sharp lines on a small image: the canvas has the pixels of the screen.
  const scale = Math.max(1, (canvas.clientWidth * devicePixelRatio) / image.width);
  const [width, height] = [Math.round(image.width * scale), Math.round(image.height * scale)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  image.close();
  drawPath(context, header.path, width, height);
  const said = !header.calibrated ? "not calibrated, no path" : header.path.length ? "with the predicted path" : "no path now";
  setText(canvas.nextSibling, `${header.camera}: ${said}`, "");
  canvas.classList.remove("frozen");
  drawnAt[header.camera] = performance.now();
  shown(header.camera, socket);
}

// The path from white edges to its colour: blue where the gripper is open, orange where it closes.
function drawPath(context, path, width, height) {
  const points = path.map(([right, down, open]) => [right * width, down * height, open > 0.5 ? "#39a0ff" : "#ff9d2e"]);
  const thin = Math.max(2, width / 160);
  for (const [extra, edge] of [[thin, true], [0, false]]) {
    for (const [index, [x, y, color]] of points.entries()) {
      context.strokeStyle = context.fillStyle = edge ? "#ffffff" : color;
      context.lineWidth = thin + extra;
      if (index) {
        context.beginPath();
        context.moveTo(points[index - 1][0], points[index - 1][1]);
        context.lineTo(x, y);
        context.stroke();
      }
      context.beginPath();
      context.arc(x, y, thin + extra / 2, 0, 2 * Math.PI);
      context.fill();
    }
  }
}

// Commands

async function send(name, fields) {
  const reply = byId("reply");
  setText(reply, `${name.replaceAll("_", " ")}: sent`, "");
  try {
    const response = await fetch(`/api/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Viewer": viewer.key },
      body: JSON.stringify(fields || {}),
      keepalive: true,
    });
    const answer = await response.json();
    setText(reply, `${name.replaceAll("_", " ")}: ${answer.message || (answer.success ? "done" : "refused")}`,
      answer.success ? "good" : "bad");
    return answer.success;
  } catch (error) {
    setText(reply, `${name.replaceAll("_", " ")}: not delivered, the link is gone`, "bad");
    return false;
  }
}

const note = () => ({ note: byId("note").value, outcome: byId("outcome").value });
const BUTTONS = {
  record_start: () => send("record_start", { note: byId("note").value }),
  record_stop: () => send("record_stop", note()),
  record_discard: () => send("record_stop", { outcome: "discard" }),
  record_label: () => send("record_label", note()),
  record_recent: () => send("record_recent", note()),
  refresh: () => true,
};
const FORMS = {
  instruct: (form) => send("instruct", { text: byId("text").value, mode: form.elements.mode.value }),
  mark: () => send("record_mark", { name: byId("subtask").value }),
  load_adapter: () => send("load_adapter", { path: byId("path").value }),
};
for (const id of ["emergency_stop", "stop", "resume", "reset_emergency_stop", "recover", "take", "give", "drop_adapter"]) {
  byId(id).addEventListener("click", () => send(id));
}
for (const [id, act] of Object.entries(BUTTONS)) {
  byId(id).addEventListener("click", async () => { if (await act()) listEpisodes(); });
}
for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const operator = state !== null && state.operator === viewer.number;
    if (operator && FORMS[form.id]) FORMS[form.id](form);
  });
}
// The space bar stops the arm wherever it does not write; Enter still presses buttons.
document.addEventListener("keydown", (event) => {
  const writes = event.target.matches("input:not([type=radio]), textarea, select");
  if (event.code === "Escape" && writes) event.target.blur();
  if (event.code !== "Space" || writes) return;
  event.preventDefault();
  if (!event.repeat) send("emergency_stop");
}, true);

// Episodes

async function listEpisodes(before = "") {
  const response = await fetch(`/api/episodes?before=${encodeURIComponent(before)}`).catch(() => null);
  if (!response || !response.ok) return;
  const { episodes, count, more } = await response.json();
  setText(byId("count"), `${episodes.length} of ${count} episodes`);
  older = more ? episodes[episodes.length - 1].name : "";
  byId("older").disabled = !more;
  byId("episodes").replaceChildren(...episodes.map(episodeRow));
}

function episodeRow(episode) {
  const row = make("tr");
  const what = make("td", episode.instruction);
  if (episode.flaw) what.append(episode.instruction ? "; " : "", make("span", episode.flaw, "bad"));
  row.append(make("td", episode.name), make("td", episode.outcome || "none"), what,
    make("td", `${episode.seconds} s`), make("td"));
  if (!episode.has_video) return row;
  const button = make("button", "Play");
  button.setAttribute("aria-label", `Play ${episode.name}`);
  button.addEventListener("click", () => play(episode.name));
  row.lastChild.append(button);
  return row;
}

function play(name) {
  const video = byId("video");
  video.hidden = false;
  video.onerror = async () => {
    const response = await fetch(video.src).catch(() => null);
    const answer = response && !response.ok ? await response.json() : { message: "it cannot be played" };
    setText(byId("reply"), `video of ${name}: ${answer.message}`, "bad");
  };
  video.src = `/video/${encodeURIComponent(name)}`;
  video.play().catch(() => {});
  video.focus();
}

byId("older").addEventListener("click", () => listEpisodes(older));
setInterval(showLink, 100);
connect();
