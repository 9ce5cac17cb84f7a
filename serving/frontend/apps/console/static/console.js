// What the pages do beyond what they do without a script: live charts, answers in place, logs that go on.
const LIVE_WIDTH = 220, CHART_HEIGHT = 130;

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

// ---- the overview, and a load test -------------------------------------------------------------------------------

const charted = document.getElementById("charts");
if (charted) watch(charted);

function watch(place) {
  const samples = [], charts = [];
  const keys = (figure) => {
    const own = figure.dataset.chart.split(",");
    const other = figure.dataset.else;
    return other && samples.length && samples.every((one) => own.every((key) => one[key] === null)) && samples.some((one) => one[other] !== null)
      ? { keys: [other], names: figure.dataset.elsenames } : { keys: own, names: figure.dataset.names };
  };
  const draw = (figure, index) => {
    const { keys: wanted, names } = keys(figure), scale = Number(figure.dataset.scale || 1);
    const values = wanted.map((key) => samples.map((one) => (one[key] === null || one[key] === undefined ? null : one[key] / scale)));
    const last = values.map((column) => number(column.at(-1)) + (figure.dataset.unit || ""));
    const titles = (names || "").split(",");
    figure.querySelector("output").textContent = last.map((text, at) => (titles[at] ? `${titles[at]} ${text}` : text)).join("  ");
    const data = [samples.map((one) => one.at), ...values];
    if (charts[index] && charts[index].wanted === wanted.join()) { charts[index].plot.setData(data); return; }
    if (charts[index]) charts[index].plot.destroy();
    const box = figure.querySelector(".plot"), axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 0.5 }, ticks: { show: false }, font: "11px system-ui" };
    const plot = new window.uPlot({
      width: box.clientWidth || LIVE_WIDTH, height: CHART_HEIGHT, cursor: { show: false }, legend: { show: false },
      scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, size: 26, space: 80, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 44 }],
      series: [{}, ...wanted.map((_, at) => ({ stroke: colour(`--c${at}`), width: 1.5, spanGaps: false, points: { show: false } }))],
    }, data, box);
    charts[index] = { plot, wanted: wanted.join() };
  };
  const figures = [...place.querySelectorAll("figure")];
  let waiting = false;
  const redraw = () => {
    if (waiting || document.hidden || !window.uPlot) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; place.hidden = false; figures.forEach(draw); });
  };
  const restart = () => { charts.splice(0).forEach(({ plot }) => plot.destroy()); redraw(); };
  new ResizeObserver(() => charts.forEach(({ plot }, at) => plot.setSize({ width: figures[at].querySelector(".plot").clientWidth, height: CHART_HEIGHT }))).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restart);
  document.addEventListener("visibilitychange", redraw);
  window.addEventListener("load", redraw);
  const rows = () => new Map([...document.querySelectorAll("#models tbody tr[data-name]")].map((row) => [`${row.dataset.name}\n${row.dataset.version}`, row]));
  const lost = document.getElementById("lost");
  const events = new EventSource(place.dataset.events);
  events.onerror = () => { lost.textContent = place.dataset.lost; lost.hidden = false; };
  events.onmessage = ({ data }) => {
    lost.hidden = true;
    const one = JSON.parse(data), known = rows();
    samples.push(one);
    if (samples.length > 300) samples.shift();
    for (const model of one.models || []) {
      const row = known.get(`${model.name}\n${model.version}`);
      if (!row) continue;
      for (const cell of row.querySelectorAll("[data-live]")) {
        const key = cell.dataset.live, value = key === "p50" && model.p50 === null ? model.mean : model[key];
        const text = key === "memory" ? size(value) : number(value);
        if (cell.textContent !== text) cell.textContent = text;
      }
    }
    const stage = document.getElementById("stage");
    if (stage && one.load) stage.textContent = one.load;
    redraw();
  };
  // Of a load test, which ends: what has come of it is on the page.
  events.addEventListener("over", async () => {
    events.close();
    const running = document.getElementById("running");
    if (!running) return;
    try {
      const page = new DOMParser().parseFromString(await (await fetch(location.pathname)).text(), "text/html");
      const found = page.getElementById("outcome");
      if (!found) { location.reload(); return; }  // the server has begun anew, or wants a key
      document.getElementById("outcome").replaceWith(found);
      const held = running.contains(document.activeElement), over = document.getElementById("over");
      running.remove();
      over.textContent = over.dataset.over;
      if (held) document.getElementById("content").focus();
    } catch { events.onerror(); }
  });
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
  // One input at a time is what the reader means: the last one that was chosen.
  const unchoose = () => place.querySelectorAll("input[name=sample]").forEach((one) => { one.checked = false; });
  file.addEventListener("change", () => { show(); if (file.files.length) { unchoose(); text.value = ""; } });
  text.addEventListener("input", () => { if (text.value) { unchoose(); file.value = ""; show(); } });
  place.querySelectorAll("input[name=sample]").forEach((one) => one.addEventListener("change", () => { file.value = ""; text.value = ""; show(); }));
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) { file.files = event.dataTransfer.files; file.dispatchEvent(new Event("change")); }
  });
}

function tryModel(place) {
  const answer = document.getElementById("answer"), send = place.querySelector("#send");
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
    try {
      const reply = await fetch(place.action, { method: "POST", body: new FormData(place), headers: { "x-torchmar-alone": "1" } });
      if (reply.headers.get("x-torchmar-answer") === "stream") await stream(reply);
      else if (reply.headers.get("content-type").startsWith("text/html")) {
        const page = new DOMParser().parseFromString(await reply.text(), "text/html");
        const found = page.querySelector("main") || page.body;
        answer.replaceChildren(...found.childNodes);
      }
    } catch { fail(place.dataset.none); }
    answer.removeAttribute("aria-busy");
    send.disabled = false;
  });
  async function stream(reply) {
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
    } catch { fail(place.dataset.early); }
  }
}

// ---- logs --------------------------------------------------------------------------------------------------------

const log = document.getElementById("log");
if (log && log.dataset.events) {
  const most = 1000;
  const toEnd = () => { log.scrollTop = log.scrollHeight; };
  toEnd();
  const events = new EventSource(log.dataset.events);
  events.onmessage = ({ data }) => {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    for (const { text, level } of JSON.parse(data)) {
      const line = document.createElement("div");
      line.textContent = text;
      if (level) line.className = level;
      log.append(line);
    }
    while (log.children.length > most) log.firstElementChild.remove();
    if (atEnd) toEnd();
  };
}
