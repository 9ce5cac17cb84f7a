// What the pages do beyond what they do without a script: live charts, answers in place, logs that go on.
const LIVE_WIDTH = 220, CHART_HEIGHT = 130;
// Seconds that a chart shows at the least, and between the marks of its axis.
const LEAST_SPAN = 5, MARKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const ALONE = { "x-torchmar-alone": "1" };

const number = (value) =>
  value === null || value === undefined ? "–" : value >= 10000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));

const size = (bytes) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (bytes >= 999.5 && at < units.length - 1) { bytes /= 1000; at += 1; }
  return `${at && bytes < 99.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[at]}`;
};

const clock = (seconds) => new Date(1000 * seconds).toTimeString().slice(0, 8);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- the server, and the session -----------------------------------------------------------------------------------

const lost = document.getElementById("lost"), words = document.querySelector("script[data-copy]").dataset;

function sessionEnded() {
  if (typedIn) keep(typedIn);
  document.getElementById("leave")?.remove();
  lost.hidden = true;
  document.getElementById("out").hidden = false;
}

// A stream of documents, as long as the session goes on.
function follow(address, told) {
  const events = new EventSource(address);
  events.onopen = () => { lost.hidden = true; };
  events.onerror = () => { lost.hidden = false; };
  events.onmessage = ({ data }) => told(JSON.parse(data));
  events.addEventListener("out", () => { events.close(); sessionEnded(); });
  return events;
}

// ---- what was typed ----------------------------------------------------------------------------------------------

// It outlives the login, and that the form is refused: in this window, until another page than the login comes.
const KEPT = "torchmar-kept", typedIn = document.querySelector("form[data-kept]");

function keep(form) {
  const fields = [...new FormData(form)].filter(([name, value]) => name !== "mark" && typeof value === "string");
  try { sessionStorage.setItem(KEPT, JSON.stringify({ path: location.pathname, fields })); } catch { /* it is too much */ }
}

function fillAgain(form, fields) {
  const given = new Map(fields);
  for (const one of form.elements) {
    if (one.type === "radio") one.checked = given.get(one.name) === one.value;
    else if (!["hidden", "file"].includes(one.type) && given.has(one.name)) one.value = given.get(one.name);
  }
}

if (!document.querySelector("input[type=password]")) {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "{}");
  if (typedIn && kept.path === location.pathname) fillAgain(typedIn, kept.fields);
  sessionStorage.removeItem(KEPT);
}
// The script of the page to try a model knows itself whether the form was taken.
if (typedIn?.id !== "try") typedIn?.addEventListener("submit", () => keep(typedIn));

// ---- the overview, and a load test -------------------------------------------------------------------------------

const charted = document.getElementById("charts");
if (charted) watch(charted);

function watch(place) {
  const samples = [], charts = [];
  const known = (key) => samples.some((one) => one[key] !== null && one[key] !== undefined);
  // What a server tells nothing of is left out: of Java's frontend the mean is all that there is.
  const series = (figure) => {
    const own = figure.dataset.chart.split(","), titles = (figure.dataset.names || "").split(",");
    const other = figure.dataset.else;
    if (other && known(other) && !own.some(known)) return { wanted: [other], names: [figure.dataset.elsenames] };
    const found = own.some(known) ? own.filter(known) : own;
    return { wanted: found, names: found.map((key) => titles[own.indexOf(key)] || "") };
  };
  const say = (figure, names, texts) => figure.querySelector("output").replaceChildren(...texts.flatMap((text, at) => {
    const part = document.createElement("span");
    if (texts.length > 1) part.className = `key${at}`;
    part.textContent = `${names[at]} ${text}`.trim();
    return [part, " "];
  }));
  // A value without neighbours is no line: it is a dot.
  const alone = (plot, at) => {
    const column = plot.data[at];
    return column.flatMap((value, index) => (value !== null && (column[index - 1] ?? null) === null && (column[index + 1] ?? null) === null ? [index] : []));
  };
  const draw = (figure, index) => {
    const { wanted, names } = series(figure), scale = Number(figure.dataset.scale || 1);
    const values = wanted.map((key) => samples.map((one) => (one[key] === null || one[key] === undefined ? null : one[key] / scale)));
    // Once a test is over its figures stand there, and not those of its last second.
    if (!("over" in place.dataset)) say(figure, names, values.map((column) => column.at(-1)).map((last) => number(last) + (last === null ? "" : figure.dataset.unit || "")));
    const data = [samples.map((one) => one.at), ...values];
    if (charts[index] && charts[index].wanted === wanted.join()) { charts[index].plot.setData(data); return; }
    if (charts[index]) charts[index].plot.destroy();
    const box = figure.querySelector(".plot"), axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 0.5 }, ticks: { show: false }, font: "11px system-ui" };
    const plot = new window.uPlot({
      width: box.clientWidth || LIVE_WIDTH, height: CHART_HEIGHT, cursor: { show: false }, legend: { show: false },
      padding: [null, 28, null, null],  // for half of the last mark
      scales: { x: { time: false, range: (_, low, high) => [low, Math.max(high, low + LEAST_SPAN)] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, size: 26, space: 80, incrs: MARKS, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 44 }],
      series: [{}, ...wanted.map((_, at) => ({ stroke: colour(`--c${at}`), width: 1.5, dash: at ? [5, 3] : undefined, spanGaps: false, points: { show: false, filter: alone, size: 5, fill: colour(`--c${at}`) } }))],
    }, data, box);
    charts[index] = { plot, wanted: wanted.join() };
  };
  const figures = [...place.querySelectorAll("figure")];
  let waiting = false;
  const redraw = () => {
    if (waiting || document.hidden || !window.uPlot || !samples.length) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; place.hidden = false; figures.forEach(draw); });
  };
  const restart = () => { charts.splice(0).forEach(({ plot }) => plot.destroy()); redraw(); };
  new ResizeObserver(() => charts.forEach(({ plot }, at) => plot.setSize({ width: figures[at].querySelector(".plot").clientWidth, height: CHART_HEIGHT }))).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restart);
  document.addEventListener("visibilitychange", redraw);
  window.addEventListener("load", redraw);
  const events = follow(place.dataset.events, (one) => {
    if (!one.warm) samples.push(one);
    if (samples.length > 300) samples.shift();
    if (one.models) followModels(one.models);
    const stage = document.getElementById("stage");
    if (stage && one.load) stage.textContent = one.load;
    redraw();
  });
  // Of a load test, which ends: what has come of it is on the page.
  events.addEventListener("over", async () => {
    events.close();
    const running = document.getElementById("running"), over = document.getElementById("over");
    if (!running) return;
    try {
      const reply = await fetch(location.pathname, { headers: ALONE });
      if (reply.status === 401) { sessionEnded(); return; }
      const page = new DOMParser().parseFromString(await reply.text(), "text/html");
      if (!page.getElementById("over") || page.getElementById("running")) { location.reload(); return; }  // another test, or none
      for (const old of document.querySelectorAll("[data-fresh]")) old.replaceWith(page.getElementById(old.id));
      place.dataset.over = "";
      page.querySelectorAll("#charts output").forEach((output, at) => figures[at].querySelector("output").replaceWith(output));
      copies(document);
      const held = running.contains(document.activeElement);
      running.remove();
      over.replaceChildren(...page.getElementById("over").childNodes);
      if (held) document.getElementById("content").focus();
    } catch {
      lost.hidden = false;
      over.textContent = over.dataset.none;
      running.remove();
    }
  });
}

// ---- the models, as they are now ---------------------------------------------------------------------------------

const part = document.getElementById("live");
if (part?.dataset.events) {
  const events = follow(part.dataset.events, ({ models }) => { if (models) followModels(models, () => events.close()); });
}

// What the pages say of models is the server's to say: where it is no longer right, the part is asked for again.
let asked = "";
function followModels(models, gone) {
  const live = document.getElementById("live");
  if (!live) return;
  const { state, model } = live.dataset, unexplained = "unexplained" in live.dataset;  // the log may have the reason later
  const now = models.filter((one) => !model || one.name === model).map((one) => one.state).join(" ");
  if (now === state && !unexplained) asked = "";
  else if (now !== asked || unexplained) {  // once: the events tell of the first models alone
    asked = now;
    askAgain(live, gone, () => fillModels(models)).catch(() => { asked = ""; });
  }
  fillModels(models);
}

function fillModels(models) {
  const rows = new Map([...document.querySelectorAll("#live tr[data-name]")].map((row) => [`${row.dataset.name}\n${row.dataset.version}`, row]));
  for (const model of models) {
    for (const cell of rows.get(`${model.name}\n${model.version}`)?.querySelectorAll("[data-live]") || []) {
      const key = cell.dataset.live, value = model[key];
      const instead = key === "p50" && value === null && model.mean !== null;
      const mean = document.getElementById("live").dataset.mean;
      const text = instead ? `${mean} ${number(model.mean)}` : key === "memory" && value !== null ? size(value) : number(value);
      if (cell.textContent !== text) cell.textContent = text;
    }
  }
}

async function askAgain(live, gone, fill) {
  const reply = await fetch(location.pathname + location.search, { headers: ALONE });
  if (reply.status === 401) { sessionEnded(); return; }
  const page = new DOMParser().parseFromString(await reply.text(), "text/html"), fresh = page.getElementById("live");
  if (!fresh) {  // such as of a model that is no longer served
    if (reply.status === 404) { live.replaceChildren(...page.body.childNodes); gone?.(); }
    return;
  }
  const held = document.activeElement, typed = (input) => input.value !== input.defaultValue;
  const kept = [...live.querySelectorAll("form")].filter((form) => form.contains(held) || [...form.querySelectorAll("input")].some(typed));
  live.replaceWith(fresh);
  // A form in which somebody types stays, and so does where the keyboard is.
  for (const form of kept) [...fresh.querySelectorAll("form")].find((one) => one.action === form.action)?.replaceWith(form);
  if (held !== document.activeElement) (held.isConnected ? held : [...fresh.querySelectorAll("a")].find((one) => one.href === held.href))?.focus();
  fill();
  if (!fresh.querySelector(".bad")) document.querySelector(".told")?.remove();
}

// ---- what a model is asked with, and the page to try one ---------------------------------------------------------

const drop = document.getElementById("drop"), form = document.getElementById("try");
if (drop) chooseInput(drop.closest("form"), drop);
if (form) tryModel(form);
for (const one of document.querySelectorAll(".choices input[type=number]")) one.addEventListener("input", () => { one.parentElement.querySelector("input[type=radio]").checked = true; });

function chooseInput(place, drop) {
  const file = place.querySelector("#file"), preview = place.querySelector("#preview"), text = place.querySelector("#text");
  const hint = document.createElement("span");
  hint.className = "hint";
  hint.textContent = ` ${drop.dataset.hint}`;
  drop.append(hint);
  let shown = "";
  const show = () => {
    preview.replaceChildren();
    if (shown) URL.revokeObjectURL(shown);
    shown = "";
    const one = file.files[0];
    if (!one) return;
    const kind = one.type.split("/")[0];
    if (kind !== "image" && kind !== "audio") return;
    shown = URL.createObjectURL(one);
    const made = document.createElement(kind === "image" ? "img" : "audio");
    made.src = shown;
    if (kind === "image") made.alt = one.name; else made.controls = true;
    preview.append(made);
  };
  // One input at a time is what the reader means: the last one that was chosen. What it replaces is said.
  const samples = [...place.querySelectorAll("input[name=sample]")], chosen = place.querySelector("#chosen");
  const unchoose = () => samples.forEach((one) => { one.checked = false; });
  const replaced = (key, what, otherwise = "") => { chosen.textContent = what ? chosen.dataset[key] : otherwise; };
  file.addEventListener("change", () => { show(); if (file.files.length) { replaced("file", text.value); unchoose(); text.value = ""; } });
  text.addEventListener("input", () => { if (text.value) { replaced("text", file.value || samples.some((one) => one.checked), chosen.textContent); unchoose(); file.value = ""; show(); } });
  samples.forEach((one) => one.addEventListener("change", () => { replaced("sample", file.value || text.value); file.value = ""; text.value = ""; show(); }));
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) { file.files = event.dataTransfer.files; file.dispatchEvent(new Event("change")); }
  });
}

function tryModel(place) {
  const answer = document.getElementById("answer"), send = place.querySelector("#send");
  const waiting = place.querySelector("#waiting"), waited = place.querySelector("#waited"), cancel = place.querySelector("#cancel");
  const fail = (said) => {
    const line = document.createElement("p");
    line.className = "bad";
    line.setAttribute("role", "alert");
    line.textContent = said;
    answer.append(line);
  };
  place.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    answer.setAttribute("aria-busy", "true");
    answer.replaceChildren();
    const asking = new AbortController(), begun = Date.now();
    const tick = () => { waited.textContent = `${Math.floor((Date.now() - begun) / 1000)} s`; };
    // Most answers are there before one could read it.
    const slow = setTimeout(() => { waiting.hidden = false; }, 300), ticking = setInterval(tick, 1000);
    tick();
    cancel.onclick = () => asking.abort();
    try {
      const reply = await fetch(place.action, { method: "POST", body: new FormData(place), headers: ALONE, signal: asking.signal });
      if (!reply.ok) keep(place);
      if (reply.status === 401) sessionEnded();
      else if (reply.headers.get("x-torchmar-answer") === "stream") await stream(reply, asking.signal);
      else if (reply.headers.get("content-type").startsWith("text/html")) {
        const page = new DOMParser().parseFromString(await reply.text(), "text/html");
        answer.replaceChildren(...page.body.childNodes);
        copies(answer);
      }
    } catch { fail(asking.signal.aborted ? place.dataset.cancelled : place.dataset.none); }
    clearTimeout(slow);
    clearInterval(ticking);
    const held = waiting.contains(document.activeElement);
    waiting.hidden = true;
    answer.removeAttribute("aria-busy");
    send.disabled = false;
    if (held) send.focus();
  });
  async function stream(reply, signal) {
    const body = document.createElement("pre");
    body.className = "body";
    body.tabIndex = 0;
    answer.replaceChildren(body);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let page = null;
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        if (page !== null) { page += value; continue; }
        const [text, ...rest] = value.split("\0");
        body.append(text);
        if (rest.length) page = rest.join("");
      }
      if (page === null) fail(place.dataset.early);
      else answer.replaceChildren(...new DOMParser().parseFromString(page, "text/html").body.childNodes);
      copies(answer);
    } catch { fail(signal.aborted ? place.dataset.cancelled : place.dataset.early); }
  }
}

// ---- logs --------------------------------------------------------------------------------------------------------

const log = document.getElementById("log");
if (log && log.dataset.events) {
  const most = 1000;
  const toEnd = () => { log.scrollTop = log.scrollHeight; };
  toEnd();
  const take = (rows, anew) => {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (anew) log.replaceChildren();
    for (const { text, level } of rows) {
      const line = document.createElement("div");
      line.textContent = text;
      if (level) line.className = level;
      log.append(line);
    }
    while (log.children.length > most) log.firstElementChild.remove();
    if (atEnd) toEnd();
  };
  const events = follow(log.dataset.events, (rows) => take(rows, false));
  events.addEventListener("anew", ({ data }) => take(JSON.parse(data), true));
}

// ---- commands ----------------------------------------------------------------------------------------------------

// Where a browser lets a page write to the clipboard: over https, or of this machine.
function copies(place) {
  for (const command of navigator.clipboard ? place.querySelectorAll("pre.command:not(:has(+ .copy))") : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    const say = (word) => {
      button.textContent = word;
      button.setAttribute("aria-label", `${word}: ${command.getAttribute("aria-label")}`);
    };
    say(words.copy);
    button.onclick = async () => {
      await navigator.clipboard.writeText(command.textContent);
      say(words.copied);
      setTimeout(() => say(words.copy), 2000);
    };
    command.after(button);
  }
}
copies(document);
