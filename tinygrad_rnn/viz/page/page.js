// The whole: drawing it all, and what mouse and keys do.

let placed, whole;

function draw(keep = false) {
  const shown = visible(), focus = document.activeElement && document.activeElement.id;
  const among = new Map();
  for (const edge of shown.edges.filter((edge) => edge.kind === 1)) {
    const key = `${edge.from}|${edge.to}`;
    if (!among.has(key)) among.set(key, []);
    among.get(key).push(edge);
  }
  for (const edges of among.values()) edges.forEach((edge, i) => { edge.among = [i, edges.length]; });
  placed = layout(shown);
  const parts = [drawFrames(placed), drawAxis(placed)];
  for (const edge of placed.edges) {
    const [from, to] = [placed.boxes.get(edge.from), placed.boxes.get(edge.to)];
    if (from && to) parts.push(drawEdge(edge, from, to, placed));
  }
  for (const [key, node] of placed.nodes) if (placed.boxes.has(key)) parts.push(drawNode(key, node, placed.boxes.get(key)));
  for (const [key, parameters] of placed.chips) parts.push(drawChip(key, placed.boxes.get(`chip ${key}`), placed.boxes.get(key), placed.chipLines(key), parameters));
  let bottom = placed.ground + 50;
  if (state.level !== "layer" && data.steps.length) {
    const at = spans(placed);
    for (const chart of [drawGradients, drawUnits]) {
      const [made, height] = chart(placed, at, bottom);
      parts.push(made);
      bottom += height;
    }
  }
  const side = placed.parameters, right = side ? side.x + side.w : placed.width;
  const left = Math.min(0, ...[...placed.boxes.values()].map((box) => box.x));
  whole = { x: left - 24, y: -44, w: right - left + 48, h: Math.max(bottom, side ? side.y + side.h : 0) + 60 };
  holder.classList.add("live");
  holder.innerHTML = `<svg xmlns="http://www.w3.org/2000/svg" role="group" aria-label="${escape(data.caption[0])}" font-family="Arial, Helvetica, sans-serif">${parts.join("")}</svg>`;
  if (!keep || !state.box) start();
  else look();
  if (focus && document.getElementById(focus)) document.getElementById(focus).focus({ preventScroll: true });
  legend();
  search(false);
  if (find(".every").open) table();
  const drawn = [...placed.nodes].filter(([key, node]) => placed.boxes.has(key) && node.kind !== "parameter").length;
  say(`level ${state.level}: ${count(drawn, "node")}` + (state.hidden.size ? `, ${count(state.hidden.size, "step")} folded` : ""));
}

/** As large as the window is wide, but readable; what does not fit to the right is there to be moved to. */
function start() {
  const across = holder.clientWidth, scale = Math.min(Math.max(across / whole.w, 0.62), 1.25);
  svg().style.height = `${Math.round(whole.h * scale)}px`;
  state.box = { ...whole, w: across / scale };
  if (state.box.w > whole.w) state.box.x -= (state.box.w - whole.w) / 2;
  look();
}

const say = (words) => { status.textContent = words; };
const svg = () => holder.querySelector("svg");
const look = () => svg().setAttribute("viewBox", [state.box.x, state.box.y, state.box.w, state.box.h].map(n).join(" "));

function zoom(by, point) {
  const box = state.box, at = point || { x: box.x + box.w / 2, y: box.y + box.h / 2 };
  const factor = Math.min(Math.max(by, 40 / box.w), (whole.w * 4) / box.w);
  state.box = { x: at.x - (at.x - box.x) * factor, y: at.y - (at.y - box.y) * factor, w: box.w * factor, h: box.h * factor };
  look();
}
const move = (x, y) => { state.box.x += x * state.box.w; state.box.y += y * state.box.h; look(); };
function spot(event) {
  const matrix = svg().getScreenCTM().inverse();
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
}

function legend() {
  const key = (colour, words, dashed) => `<span class="key"><i style="border-color:${colour}"${dashed ? ' class="dashed"' : ""}></i>${escape(words)}</span>`;
  const recurrent = placed.edges.filter((edge) => edge.kind === 1), back = (edge) => (placed.nodes.get(edge.to).leftward ? 1 : 0);
  const used = new Map(recurrent.map((edge) => [`${edge.what} ${back(edge)}`, [edge.what, back(edge)]]));
  let made = [...used.values()].map(([name, side]) => key(data.states[name][side],
    name === "gradient" ? "gradient, back in time" : `${name} state${side ? ", time backward" : ""}`)).join("");
  if (placed.chips.size) made += key(data.parameter[1], placed.shared ? "parameters, the same at every step" : "parameters", true);
  const scale = data.scales[state.color];
  if (scale) {
    const marks = [], shares = state.color === "saturation", steps = shares ? 4 : scale.high - scale.low;
    for (let i = 0; i <= steps; i++) {
      const colour = ramp(i / steps);
      marks.push(`<span style="background:${css(colour)};color:${isDark(colour) ? "#fff" : "#1F2933"}">${shares ? `${25 * i} %` : `1e${scale.low + i}`}</span>`);
    }
    if (!shares) marks.unshift(`<span style="background:${data.zero};color:#1F2933">0</span>`);
    made += `<span class="key">${escape(scale.title)} <span class="bar">${marks.join("")}</span> white: none</span>`;
  }
  find("figcaption").innerHTML = `<div>${made}</div><div>${escape(data.totals)}</div>`;
}

function table() {
  const name = state.level, level = data.levels[name];
  const rows = level.id.map((_, i) => {
    const node = lookOf(name, i), cells = [node.name, node.kind, node.frame, node.step === null ? "" : node.step + 1, node.shape, node.formula || node.made];
    const numbers = [node.value, node.grad].map((s) => (s ? (s[5] ? "NaN" : s[6] ? "inf" : short(s[0])) : ""));
    return `<tr>${cells.map((cell) => `<td>${escape(cell)}</td>`).join("")}${numbers.map((cell) => `<td class="number">${cell}</td>`).join("")}</tr>`;
  });
  const heads = ["name", "kind", "where", "step", "shape", "computes", "norm of value", "norm of gradient"].map((head) => `<th scope="col">${head}</th>`);
  find(".table").innerHTML = `<table><caption>${count(rows.length, "node")} at level ${name}, every step</caption><thead><tr>${heads.join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function search(go) {
  const words = find(".search").value.trim().toLowerCase();
  const fits = (node) => words && `${node.name}\n${hint(node)}`.toLowerCase().includes(words);
  const hits = [...placed.nodes].filter(([key, node]) => placed.boxes.has(key) && fits(node)).map(([key]) => key);
  for (const element of svg().querySelectorAll(".node")) element.classList.toggle("hit", hits.includes(element.dataset.key));
  if (!words) return go || find(".search") === document.activeElement ? say("") : undefined;
  say(hits.length ? `${count(hits.length, "node")} found: Enter goes to the next` : "nothing found among the nodes shown");
  if (!go || !hits.length) return;
  state.found = (state.found + 1) % hits.length;
  const box = placed.boxes.get(hits[state.found]);
  const w = Math.min(whole.w, 900), h = (w * state.box.h) / state.box.w;
  state.box = { x: box.x + box.w / 2 - w / 2, y: box.y + box.h / 2 - h / 2, w, h };
  look();
}

function point(key) {
  const near = (from, to) => {
    const next = new Map(), reached = new Set([key]), stack = [key];
    for (const edge of placed.edges) (next.get(edge[from]) || next.set(edge[from], []).get(edge[from])).push(edge[to]);
    while (stack.length) for (const one of next.get(stack.pop()) || []) if (!reached.has(one)) { reached.add(one); stack.push(one); }
    return reached;
  };
  svg().classList.toggle("looking", key !== null);
  if (key === null) return;
  const [before, after] = [near("to", "from"), near("from", "to")];
  for (const element of svg().querySelectorAll(".part")) {
    const { key: own, from, to } = element.dataset;
    element.classList.toggle("on", own ? before.has(own) || after.has(own) : (before.has(from) && before.has(to)) || (after.has(from) && after.has(to)));
  }
}

function activate(element) {
  const node = element.closest(".node"), frame = element.closest("[data-cell]"), step = element.closest("[data-step]");
  if (step) state.hidden.add(Number(step.dataset.step));
  else if (node) {
    const known = placed.nodes.get(node.dataset.key);
    if (known.kind === "ellipsis") known.steps.forEach((one) => state.hidden.delete(one));
    else if (known.closed) toggle(cellKey(known));
    else return;
  } else if (frame && (state.level === "gate" || state.level === "cell")) toggle(frame.dataset.cell);
  else return;
  draw();
}
const toggle = (key) => { if (!state.toggled.delete(key)) state.toggled.add(key); };

function choose(level) {
  Object.assign(state, { level, toggled: new Set(), found: -1 });
  for (const input of document.querySelectorAll(".levels input")) input.checked = input.value === level;
  draw();
}

const actions = {
  fold: () => { state.hidden = new Set(data.steps.slice(2, -1)); draw(); },
  unfold: () => { state.hidden = new Set(); draw(); },
  in: () => zoom(0.8), out: () => zoom(1.25),
  fit: () => { state.box = { ...whole }; look(); },
};

function begin() {
  find("h1").textContent = data.caption[0];
  find(".levels").insertAdjacentHTML("beforeend", Object.keys({ op: 0, gate: 0, cell: 0, layer: 0 }).map((level) =>
    `<label><input type="radio" name="level" value="${level}"${level === state.level ? " checked" : ""}> ${level}</label>`).join(""));
  find(".color").innerHTML = ["none", ...Object.keys(data.scales)].map((color) => `<option${color === state.color ? " selected" : ""}>${color}</option>`).join("");
  find(".chips").checked = state.chips;
  find(".levels").addEventListener("change", (event) => choose(event.target.value));
  find(".color").addEventListener("change", (event) => { state.color = event.target.value; draw(true); });
  find(".chips").addEventListener("change", (event) => { state.chips = event.target.checked; draw(); });
  find(".search").addEventListener("input", () => { state.found = -1; search(false); });
  find(".controls").addEventListener("submit", (event) => { event.preventDefault(); search(true); });
  find(".buttons").addEventListener("click", (event) => { const name = event.target.dataset.do; if (name) actions[name](); });
  find(".every").addEventListener("toggle", () => find(".every").open && table());
  let held = null;
  holder.addEventListener("pointerdown", (event) => {
    delete holder.dataset.moved;
    if (event.button === 0) held = { x: event.clientX, y: event.clientY, moved: false };
  });
  addEventListener("pointermove", (event) => {
    if (!held) return;
    const scale = state.box.w / svg().getBoundingClientRect().width, high = state.box.h / svg().getBoundingClientRect().height;
    const by = Math.max(scale, high), [x, y] = [event.clientX - held.x, event.clientY - held.y];
    if (!held.moved && Math.hypot(x, y) < 5) return;
    Object.assign(state.box, { x: state.box.x - x * by, y: state.box.y - y * by });
    held = { x: event.clientX, y: event.clientY, moved: true };
    svg().classList.add("held");
    look();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    addEventListener(end, () => {
      if (held && held.moved) holder.dataset.moved = "1";  // what follows is no click
      held = null;
      svg().classList.remove("held");
    });
  }
  let across = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== across) { across = innerWidth; start(); } });
  addEventListener("beforeprint", () => {
    state.before = state.box;
    state.box = { ...whole };
    look();
  });
  addEventListener("afterprint", () => { state.box = state.before; look(); });
  holder.addEventListener("click", (event) => { if (holder.dataset.moved) delete holder.dataset.moved; else activate(event.target); });
  holder.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;  // which scrolls the page
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, spot(event));
  }, { passive: false });
  for (const [on, off] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    holder.addEventListener(on, (event) => {
      const node = event.target.closest(".node");
      if (node && (on === "mouseover" || node.matches(":focus-visible"))) point(node.dataset.key);
    });
    holder.addEventListener(off, () => point(null));
  }
  addEventListener("keydown", (event) => {
    if (event.target.matches("select, input[type=search]")) return;
    if (event.target.matches("input") && /^(Arrow|Enter| )/.test(event.key)) return;
    const keys = {
      "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.fit, "/": () => find(".search").focus(),
      ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0), ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1),
      "1": () => choose("op"), "2": () => choose("gate"), "3": () => choose("cell"), "4": () => choose("layer"),
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if ((event.key === "Enter" || event.key === " ") && event.target.closest(".picture")) activate(event.target);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
  draw();
}

begin();
