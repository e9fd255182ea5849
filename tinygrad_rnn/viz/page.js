"use strict";
(() => {
  const data = JSON.parse(document.querySelector(".data").textContent);
  const find = (selector) => document.querySelector(selector);
  const holder = find(".picture"), status = find(".status");
  const state = {
    level: data.level, color: data.color, hidden: new Set(data.hidden), toggled: new Set(), chips: data.params,
    box: null, found: -1,
  };

  // --- Words and numbers ---

  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const n = (number) => String(Math.round(number * 10) / 10);
  const subscript = (number) => String(number).replace(/\d/g, (d) => "₀₁₂₃₄₅₆₇₈₉"[d]);
  const narrow = new Set("iljI.,:;'|!()[]/ ftr-");
  const wide = (text, size) => [...text].reduce((sum, c) => sum + (narrow.has(c) ? 0.32 : /[A-Z]/.test(c) ? 0.7 : 0.57), 0) * size;
  const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 0.01 && Math.abs(x) < 1000 ? String(Number(x.toPrecision(3))) : x.toExponential(1));
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  function lookOf(level, i) {
    const all = data.levels[level];
    return {
      ...data.stamps[all.stamp[i]], id: all.id[i], step: all.step[i], net: all.net[i],
      value: all.value[i], grad: all.grad[i], saturation: all.saturation[i],
    };
  }

  function hint(node) {
    const measure = (name, s) => s && `${name}: norm ${short(s[0])}, mean ${short(s[1])}, std ${short(s[2])}, from ${short(s[3])} to ${short(s[4])}`
      + (s[5] ? `, ${s[5]} NaN` : "") + (s[6] ? `, ${s[6]} infinite` : "");
    return [
      node.name, node.formula, node.shape,
      [node.frame, node.step === null ? "" : node.kind === "ellipsis" ? "" : `step ${node.step + 1}`].filter(Boolean).join(", "),
      node.made, measure("value", node.value), node.saturation !== null && node.saturation !== undefined && `saturated: ${Math.round(100 * node.saturation)} % of units`,
      measure("gradient", node.grad), node.more,
    ].filter(Boolean).filter((line, i, all) => all.indexOf(line) === i).join("\n");
  }

  // --- Colour ---

  function ramp(part) {
    const place = Math.min(Math.max(part, 0), 1) * (data.ramp.length - 1);
    const i = Math.min(Math.floor(place), data.ramp.length - 2);
    const mix = (k) => {
      const [a, b] = [data.ramp[i], data.ramp[i + 1]].map((c) => parseInt(c.slice(k, k + 2), 16));
      return Math.round(a + (b - a) * (place - i));
    };
    return [mix(1), mix(3), mix(5)];
  }
  const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
  const isDark = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b < 140;

  function part(node) {
    const scale = data.scales[state.color];
    if (!scale) return null;
    if (state.color === "saturation") return node.saturation ?? null;
    const numbers = node[state.color];
    if (!numbers) return null;
    return numbers[0] > 0 ? Math.min(Math.max((Math.log10(numbers[0]) - scale.low) / (scale.high - scale.low), 0), 1) : 0;
  }
  function trouble(node) {
    if (state.color === "none") return "";
    const numbers = node[state.color === "grad" ? "grad" : "value"];
    return numbers ? (numbers[5] ? "NaN" : numbers[6] ? "inf" : "") : "";
  }
  function paint(node) {
    if (state.color === "none" || node.kind === "ellipsis") return { fill: node.fill, dark: false };
    if (trouble(node)) return { fill: data.strange, dark: true };
    const at = part(node);
    return at === null ? { fill: "#ffffff", dark: false } : { fill: css(ramp(at)), dark: isDark(ramp(at)) };
  }

  // --- What is visible: nodes of the level, closed cells, and one ellipsis for a run of folded steps ---

  function runs() {
    const first = new Map();
    let before = null;
    for (const step of data.steps) {
      if (state.hidden.has(step)) first.set(step, before === null ? (before = step) : before);
      else before = null;
    }
    return first;
  }
  const cellKey = (node) => `${node.net} ${node.lane} ${node.step}`;
  const isClosed = (node) => (state.level === "cell") !== state.toggled.has(cellKey(node));

  function visible() {
    const name = state.level === "cell" ? "gate" : state.level, level = data.levels[name], run = runs();
    const states = new Set(level.edges.filter((e) => e[2] === 1).map((e) => e[0]));
    const nodes = new Map(), key = [];
    for (let i = 0; i < level.id.length; i++) {
      const node = lookOf(name, i);
      if (node.step !== null && run.has(node.step)) {
        const lane = node.given || node.lane === null ? "x" : node.lane;
        key[i] = `e ${node.net} ${run.get(node.step)} ${lane}`;
        const known = nodes.get(key[i]) || { ...node, kind: "ellipsis", steps: new Set(), norms: [], inside: 0, given: lane === "x", lines: null };
        known.steps.add(node.step);
        known.inside++;
        if (states.has(i) && node.grad) known.norms.push(node.grad[0]);
        nodes.set(key[i], known);
      } else if (name === "gate" && level.cell[i] !== null && isClosed(node)) {
        const cell = level.cell[i];
        key[i] = `c ${cell}`;
        if (!nodes.has(key[i])) nodes.set(key[i], { ...lookOf("cell", cell), closed: true });
      } else {
        key[i] = `n ${i}`;
        nodes.set(key[i], node);
      }
    }
    for (const node of nodes.values()) finish(node);
    const edges = new Map();
    for (const [a, b, kind, what, times] of level.edges) {
      const [from, to] = [key[a], key[b]];
      if (from === to && !(state.level === "layer" && kind === 1)) continue;
      const id = `${from}|${to}|${kind}|${what}`;
      const known = edges.get(id) || { from, to, kind, what, times: 0 };
      known.times += times;
      edges.set(id, known);
    }
    return { nodes, edges: [...edges.values()] };
  }

  function finish(node) {
    if (node.kind === "ellipsis") {
      const steps = [...node.steps].sort((a, b) => a - b);
      node.name = steps.length === 1 ? `step ${steps[0] + 1}` : `steps ${steps[0] + 1} to ${steps[steps.length - 1] + 1}`;
      node.lines = [["· · ·", 20, 0]];
      node.value = node.grad = node.saturation = null;
      node.formula = node.shape = "";
      node.made = `${count(steps.length, "step")} with ${count(node.inside, "node")} folded`;
      if (node.norms.length) {
        const [low, high] = [Math.min(...node.norms), Math.max(...node.norms)];
        node.lines.push([`gradient ${short(low)}`, 10, 0], [`to ${short(high)}`, 10, 0]);
        node.more = `gradients of the states inside: norms from ${short(low)} to ${short(high)}`;
      }
      node.w = Math.max(...node.lines.map(([text, size]) => wide(text, size))) + 16;
      node.h = 12 + node.lines.reduce((sum, line) => sum + line[1] + 3, 0);
      return;
    }
    if (node.kind === "input" && node.step !== null) {
      node.lines = node.lines.map((line, i) => (i ? line : [line[0] + subscript(node.step + 1), line[1], line[2]]));
    }
    const word = trouble(node);
    if (word) {
      node.lines = [...node.lines, [word, 12, 1]];
      node.h += 15;
    }
  }

  // --- The grid: time gives the columns, layers and depth the rows ---

  const BESIDE = 10, ROW = 20, COLUMN = 64, LAYER = 30;

  function bands(nodes) {
    const found = [];
    data.nets.forEach((net, number) => {
      const title = net ? `${net}, ` : "", starts = [[], []], columns = new Map();
      const rolled = state.level === "layer";
      for (const [key, node] of nodes) {
        if (node.net !== number || (node.lane === null && node.step === null) || node.kind === "parameter") continue;
        if (node.start) starts[node.leftward && !rolled ? 1 : 0].push(key);
        else {
          const step = node.kind === "ellipsis" ? Math.min(...node.steps) : node.step;
          if (!columns.has(step)) columns.set(step, []);
          columns.get(step).push(key);
        }
      }
      if (starts[0].length) found.push({ words: [`${title}start`], keys: starts[0], start: true, net: number });
      for (const step of [...columns.keys()].sort((a, b) => a - b)) {
        const keys = columns.get(step), folded = keys.map((key) => nodes.get(key)).find((node) => node.kind === "ellipsis");
        const steps = folded ? [...folded.steps].sort((a, b) => a - b) : [step];
        const words = folded ? [title + folded.name, count(steps.length, "step")] : [title + (step === null ? "every step" : `step ${step + 1}`)];
        found.push({ words, keys, steps, folded: Boolean(folded), net: number });
      }
      if (starts[1].length) found.push({ words: [`${title}start of reverse`], keys: starts[1], start: true, net: number });
    });
    return found;
  }

  function layout(shown) {
    const { nodes, edges } = shown, columns = bands(nodes), boxes = new Map(), chips = new Map();
    const lanes = data.lanes.map(String), laneOf = (node) => lanes.indexOf(String(node.lane));
    if (state.chips) {
      for (const edge of edges) {
        if (edge.kind !== 2 || nodes.get(edge.to).kind === "ellipsis") continue;
        if (!chips.has(edge.to)) chips.set(edge.to, []);
        chips.get(edge.to).push(nodes.get(edge.from));
      }
    }
    const chipLines = (key) => {
      const names = chips.get(key).map((node) => node.lines[0][0].split(".").pop());
      return names.reduce((lines, name, i) => (i % 2 ? [...lines.slice(0, -1), `${lines[lines.length - 1]}  ${name}`] : [...lines, name]), []);
    };
    const size = (key) => {
      if (!key.startsWith("chip ")) return [nodes.get(key).w, nodes.get(key).h];
      const lines = chipLines(key.slice(5));
      return [Math.max(...lines.map((line) => wide(line, 9))) + 10, 8 + lines.length * 11];
    };
    // Rows of a lane by depth; what is closed or folded stands in its middle.
    const given = [], tall = lanes.map(() => new Map()), least = lanes.map(() => 0);
    const isWhole = (node) => node.closed || node.kind === "ellipsis";
    const shares = new Set();  // lanes where something else stands in the column of a closed cell
    for (const { keys } of columns) {
      const whole = new Set(keys.map((key) => nodes.get(key)).filter((node) => node.closed && !node.given).map(laneOf));
      for (const key of keys) if (!isWhole(nodes.get(key)) && whole.has(laneOf(nodes.get(key)))) shares.add(laneOf(nodes.get(key)));
    }
    for (const { keys } of columns) {
      for (const key of keys) {
        const node = nodes.get(key), lane = laneOf(node);
        if (node.given || lane < 0) given.push(key);
        else if (isWhole(node)) least[lane] = Math.max(least[lane], node.h);
        else tall[lane].set(node.depth, Math.max(tall[lane].get(node.depth) || 0, node.h));
      }
    }
    const outside = [...nodes].filter(([, node]) => node.lane === null && node.step === null && node.kind !== "parameter");
    const high = new Map();
    for (const [, node] of outside) high.set(node.depth, Math.max(high.get(node.depth) || 0, node.h));
    let y = 0;
    const middle = new Map();
    const put = (name, height, gap) => { middle.set(name, y + height / 2); y += height + gap; };
    const levels = [...high.keys()].sort((a, b) => b - a);
    for (const depth of levels.filter((depth) => depth >= 0)) put(`o ${depth}`, high.get(depth), ROW);
    if (levels.some((depth) => depth >= 0)) y += LAYER;
    for (let lane = lanes.length - 1; lane >= 0; lane--) {
      const depths = [...tall[lane].keys()].sort((a, b) => b - a), top = y;
      if (!depths.length && !least[lane]) continue;
      if (shares.has(lane)) put(`${lane}`, least[lane], ROW);
      for (const depth of depths) put(`${lane} ${depth}`, tall[lane].get(depth), ROW);
      if (y - ROW - top < least[lane]) y = top + least[lane] + ROW;
      if (!shares.has(lane)) middle.set(`${lane}`, (top + y - ROW) / 2);
      y += LAYER;
    }
    if (given.length) put("given", Math.max(...given.map((key) => nodes.get(key).h)), ROW);
    for (const depth of levels.filter((depth) => depth < 0)) put(`o ${depth}`, high.get(depth), ROW);
    const ground = y;
    // Columns: each row around one middle, chips hang over.
    const takers = new Set(edges.filter((edge) => edge.kind === 1).map((edge) => edge.to));
    const halves = (keys) => {
      const whole = keys.reduce((sum, key) => sum + size(key)[0], BESIDE * (keys.length - 1));
      const before = keys[0].startsWith("chip ") ? size(keys[0])[0] + BESIDE : 0;
      const last = keys[keys.length - 1];
      const behind = last.startsWith("chip ") ? size(last)[0] + BESIDE : 0;
      return [before + (whole - before - behind) / 2, behind + (whole - before - behind) / 2];
    };
    const line = (keys, x, at) => {
      x -= halves(keys)[0];
      for (const key of keys) {
        const [w, h] = size(key);
        boxes.set(key, { x, y: at - h / 2, w, h });
        x += w + BESIDE;
      }
    };
    let x = 0, net = null;
    const frames = [];
    for (const band of columns) {
      if (net !== null && band.net !== net) x += COLUMN;
      net = band.net;
      const rows = new Map(), cells = new Map();
      const enters = (key) => (takers.has(key) !== nodes.get(key).leftward ? 0 : 1);
      for (const key of [...band.keys].sort((a, b) => enters(a) - enters(b))) {
        const node = nodes.get(key), lane = laneOf(node);
        const row = node.given || lane < 0 ? "given" : isWhole(node) ? `${lane}` : `${lane} ${node.depth}`;
        const chip = chips.has(key) ? [`chip ${key}`] : [];
        if (!rows.has(row)) rows.set(row, []);
        rows.get(row).push(...(node.leftward ? [...chip, key] : [key, ...chip]));
        if (!band.start && !node.given && lane >= 0 && !isWhole(node)) {
          if (!cells.has(lane)) cells.set(lane, []);
          cells.get(lane).push(key);
        }
      }
      const sides = [...rows.values()].map(halves);
      const least = band.folded ? Math.min(6 * band.steps.length, 180) / 2 : 0;  // the charts below need it
      const [left, right] = [0, 1].map((side) => Math.max(least, ...sides.map((half) => half[side])));
      for (const [row, keys] of rows) line(keys, x + left, middle.get(row));
      Object.assign(band, { x, middle: x + left, right: x + left + right });
      for (const keys of cells.values()) {
        if (keys.length < 2) continue;
        const around = keys.flatMap((key) => [key, `chip ${key}`]).filter((key) => boxes.has(key)).map((key) => boxes.get(key));
        const [a, b] = [Math.min(...around.map((box) => box.x)) - 9, Math.min(...around.map((box) => box.y)) - 16];
        frames.push({
          node: nodes.get(keys[0]), x: a, y: b, w: Math.max(...around.map((box) => box.x + box.w)) + 9 - a,
          h: Math.max(...around.map((box) => box.y + box.h)) + 9 - b,
        });
      }
      x += left + right + COLUMN;
    }
    const lines = new Map(), below = new Map();
    for (const [key, node] of outside) {
      if (!lines.has(node.depth)) lines.set(node.depth, []);
      lines.get(node.depth).push([key, ...(chips.has(key) ? [`chip ${key}`] : [])]);
    }
    let width = Math.max(x - COLUMN, 0);
    for (const edge of edges) if (edge.kind === 0) (below.get(edge.to) || below.set(edge.to, []).get(edge.to)).push(edge.from);
    for (const depth of [...lines.keys()].sort((a, b) => a - b)) {
      const wanted = lines.get(depth).map((keys) => {
        const xs = (below.get(keys[0]) || []).filter((key) => boxes.has(key)).map((key) => boxes.get(key).x + boxes.get(key).w / 2);
        return { keys, x: xs.length ? xs.reduce((a, b) => a + b, 0) / xs.length : width / 2 };
      }).sort((a, b) => a.x - b.x);
      let end = -Infinity, aside = 0;
      for (const one of wanted) {  // near what they are made of, with room for each
        const [left, right] = halves(one.keys);
        one.at = Math.max(one.x, end + BESIDE + left);
        end = one.at + right;
        aside += (one.at - one.x) / wanted.length;
      }
      for (const one of wanted) line(one.keys, one.at - aside, middle.get(`o ${depth}`));
    }
    for (const box of boxes.values()) width = Math.max(width, box.x + box.w);
    const side = [...nodes].filter(([, node]) => node.kind === "parameter" && state.chips);
    let at = 0, from = width + (boxes.size ? 2 * COLUMN : 0), widest = 0, lowest = 0;
    const first = from;
    for (const [key, node] of side) {
      if (at && at + node.h > Math.max(ground, 200)) { from += widest + BESIDE; at = 0; widest = 0; }
      boxes.set(key, { x: from, y: at, w: node.w, h: node.h });
      widest = Math.max(widest, node.w);
      at += node.h + BESIDE;
      lowest = Math.max(lowest, at);
    }
    const parameters = side.length ? { x: first - 10, y: -26, w: Math.max(from + widest - first, 190) + 20, h: lowest + 30 } : null;
    return { ...shown, columns, boxes, chips, chipLines, frames, parameters, width, ground, shared: side.every(([, node]) => data.shared.includes(node.id)) };
  }

  // --- Drawing ---

  const text = (words, x, y, size, look, anchor = "middle") =>
    `<text x="${n(x)}" y="${n(y)}" font-size="${n(size)}" text-anchor="${anchor}" ${look}>${escape(words)}</text>`;
  function arrow(x, y, right, down, width) {
    const size = 5.5 + width, half = 2.2 + width / 2;
    return `M${n(x)} ${n(y)}L${n(x - size * right + half * down)} ${n(y - size * down + half * right)}L${n(x - size * right - half * down)} ${n(y - size * down - half * right)}Z`;
  }
  const link = (edge, inner) => `<g class="part edge" data-from="${escape(edge.from)}" data-to="${escape(edge.to)}">${inner}</g>`;

  function drawEdge(edge, from, to, nodes, columns) {
    if (edge.kind === 2) return "";
    const [x, y] = [from.x + from.w / 2, from.y + from.h / 2], [toX, toY] = [to.x + to.w / 2, to.y + to.h / 2];
    if (edge.kind === 0) {
      const hint = edge.times > 1 ? `<title>×${edge.times}</title>` : "";
      if (from.y >= to.y + to.h) {
        const [start, end] = [from.y, to.y + to.h], bend = Math.min((start - end) / 2, 40);
        return link(edge, `${hint}<path class="line" d="M${n(x)} ${n(start)}C${n(x)} ${n(start - bend)} ${n(toX)} ${n(end + 5 + bend)} ${n(toX)} ${n(end + 5)}"/><path class="head" d="${arrow(toX, end, 0, -1, 1.1)}"/>`);
      }
      const way = toX > x ? 1 : -1, end = way > 0 ? to.x : to.x + to.w;
      return link(edge, `${hint}<path class="line" d="M${n(x + way * from.w / 2)} ${n(y)}L${n(end - 5 * way)} ${n(toY)}"/><path class="head" d="${arrow(end, toY, way, 0, 1.1)}"/>`);
    }
    const source = nodes.get(edge.from), back = nodes.get(edge.to).leftward, strange = trouble(source);
    const at = state.color === "saturation" ? null : part(source), width = at === null ? 2.2 : 0.8 + 5.2 * at;
    const colour = strange ? data.strange : data.states[edge.what][back ? 1 : 0];
    const look = `fill="none" stroke="${colour}" stroke-width="${n(width)}"`;
    const name = `<title>${escape(edge.what)} state${source.grad ? `, gradient ${short(source.grad[0])}` : ""}</title>`;
    const side = 4 * edge.among[0] - 2 * (edge.among[1] - 1);
    if (edge.from === edge.to) {
      const right = from.x + from.w, at = y + side;
      return link(edge, `${name}<path ${look} d="M${n(right)} ${n(at - 6)}C${n(right + 34)} ${n(at - 22)} ${n(right + 34)} ${n(at + 22)} ${n(right + 6)} ${n(at + 6)}"/><path fill="${colour}" d="${arrow(right, at + 5, -1, 0, width)}"/>${text(`×${edge.times}`, right + 42, at + 4, 10, 'class="words"')}`);
    }
    const way = back ? -1 : 1, start = back ? from.x : from.x + from.w, end = back ? to.x + to.w : to.x, tip = end - 6 * way;
    const edgeOf = (key, right, own) => { const band = columns.find((band) => band.keys.includes(key)); return band ? (right ? band.right : band.x) : own; };
    let leave = edgeOf(edge.from, !back, start), enter = edgeOf(edge.to, back, tip);
    [leave, enter] = back ? [Math.min(leave, start), Math.max(enter, tip)] : [Math.max(leave, start), Math.min(enter, tip)];
    const bend = (enter - leave) / 2, [a, b] = [y + side, toY + side];
    return link(edge, `${name}<path ${look} d="M${n(start)} ${n(a)}H${n(leave)}C${n(leave + bend)} ${n(a)} ${n(enter - bend)} ${n(b)} ${n(enter)} ${n(b)}H${n(tip)}"/><path fill="${colour}" d="${arrow(end, b, way, 0, width)}"/>`);
  }

  function drawNode(key, node, box) {
    const { fill, dark } = paint(node), opens = node.kind === "ellipsis" || node.closed;
    const words = node.lines, [ink, faint] = dark ? ["#ffffff", "#ffffff"] : ["#1F2933", "#52606D"];
    let y = box.y + (box.h - words.reduce((sum, line) => sum + line[1] + 3, 0)) / 2, inner = "";
    for (const [line, size, strong] of words) {
      y += size + 3;
      const look = node.kind === "ellipsis" ? `class="${size > 10 ? "strong" : "words"}"` : `fill="${size > 10 ? ink : faint}"`;
      inner += text(line, box.x + box.w / 2, y - 4, size, look + (strong ? ' font-weight="bold"' : ""));
    }
    const rect = node.kind === "ellipsis"
      ? `<rect x="${n(box.x)}" y="${n(box.y)}" width="${n(box.w)}" height="${n(box.h)}" rx="5" fill="none" stroke="none" pointer-events="all"/>`
      : `<rect x="${n(box.x)}" y="${n(box.y)}" width="${n(box.w)}" height="${n(box.h)}" rx="5" fill="${fill}" stroke="${node.border}" stroke-width="1.2"${node.dashed ? ' stroke-dasharray="4 3"' : ""}/>`;
    const what = hint(node) + (opens ? "\nclick to open" : "");
    return `<g id="${escape(node.id)}" class="node part${opens ? " clicks" : ""}" data-key="${escape(key)}" tabindex="0" role="${opens ? "button" : "img"}" aria-label="${escape(what)}"><title>${escape(what)}</title>${rect}${inner}</g>`;
  }

  function drawChip(key, box, node, lines, parameters) {
    const [fill, line] = data.parameter, same = parameters.every((one) => data.shared.includes(one.id));
    const names = parameters.map((one) => one.lines[0][0]).join(", ") + (same ? ": the same at every step" : "");
    const words = lines.map((one, i) => text(one, box.x + box.w / 2, box.y + 13 + 11 * i, 9, `fill="${line}"`)).join("");
    const [start, end] = box.x < node.x ? [box.x + box.w, node.x] : [box.x, node.x + node.w];
    const look = `stroke="${line}" stroke-dasharray="3 2"`;
    return `<g class="part chip" data-key="${escape(key)}"><title>${escape(names)}</title><rect x="${n(box.x)}" y="${n(box.y)}" width="${n(box.w)}" height="${n(box.h)}" rx="4" fill="${fill}" ${look}/>${words}<path d="M${n(start)} ${n(box.y + box.h / 2)}L${n(end)} ${n(node.y + node.h / 2)}" ${look}/></g>`;
  }

  function drawFrames(placed) {
    const closes = state.level === "gate" || state.level === "cell";
    let made = placed.frames.map(({ node, x, y, w, h }) => {
      const title = node.frame;
      const look = closes ? ` tabindex="0" role="button" aria-label="close ${escape(title)}, step ${(node.step ?? 0) + 1}"` : "";
      return `<g class="frame${closes ? " clicks" : ""}" data-cell="${escape(cellKey(node))}"${look}><title>${closes ? "click to close" : ""}</title><rect x="${n(x)}" y="${n(y)}" width="${n(w)}" height="${n(h)}" rx="6"/>${text(title, x + 8, y + 12.5, 11, 'class="words"', "start")}</g>`;
    }).join("");
    if (placed.parameters) {
      const { x, y, w, h } = placed.parameters, line = data.parameter[1];
      made += `<rect x="${n(x)}" y="${n(y)}" width="${n(w)}" height="${n(h)}" rx="6" fill="none" stroke="${line}" stroke-dasharray="4 3"/>${text(placed.shared ? "parameters, shared by all steps" : "parameters", x + 8, y + 13, 11, `fill="${line}"`, "start")}`;
    }
    return made;
  }

  function drawAxis(placed) {
    let made = "", before = null;
    for (const band of placed.columns) {
      const half = wide(band.words[0], 12) / 2 + 6, step = band.steps && band.steps.length === 1 && !band.folded && band.steps[0] !== null;
      const look = step ? `class="words step clicks" tabindex="0" role="button" data-step="${band.steps[0]}" aria-label="fold step ${band.steps[0] + 1}"` : 'class="words"';
      made += band.words.map((line, i) => text(line, band.middle, placed.ground + 14 + 13 * i, i ? 10 : 12, look)).join("");
      if (before !== null && band.middle - half - before > 8) {
        made += `<path class="line" d="M${n(before)} ${n(placed.ground + 10)}H${n(band.middle - half - 6)}"/><path class="head" d="${arrow(band.middle - half, placed.ground + 10, 1, 0, 1)}"/>`;
      }
      before = band.middle + half;
    }
    return made;
  }

  // --- Below the graph, aligned to its steps: gradients over time, and gates as units by time ---

  function spans(placed) {
    const columns = placed.columns.filter((band) => band.steps && band.steps[0] !== null), found = data.nets.map(() => new Map());
    columns.forEach((band, i) => {
      const [before, after] = [columns[i - 1], columns[i + 1]];
      const left = before && before.net === band.net ? (before.right + band.x) / 2 : band.x - 14;
      const right = after && after.net === band.net ? (band.right + after.x) / 2 : band.right + 14;
      const wide = (right - left) / band.steps.length;
      band.steps.forEach((step, k) => found[band.net].set(step, [left + k * wide, left + (k + 1) * wide, band.folded ? left + (k + 0.5) * wide : band.middle]));
    });
    return found;
  }

  function drawGradients(placed, at, top) {
    const scale = data.scales.grad, level = data.levels.gate, height = 110;
    if (!scale) return ["", 0];
    const keyOf = (node) => `${node.net}|${node.lane}|${node.gate}`, series = new Map();
    const states = new Set(level.edges.filter((e) => e[2] === 1).map((e) => keyOf(lookOf("gate", e[0]))));
    for (let i = 0; i < level.id.length; i++) {
      const node = lookOf("gate", i), key = keyOf(node);
      if (node.step === null || !node.grad || node.lane === null || !states.has(key)) continue;
      if (!series.has(key)) series.set(key, []);
      series.get(key).push(node);
    }
    const y = (norm) => top + 22 + height * (1 - Math.min(Math.max((Math.log10(norm || 1e-300) - scale.low) / (scale.high - scale.low), 0), 1));
    let made = text("norm of the gradient, step by step", -4, top + 8, 12, 'class="strong" font-weight="bold"', "start");
    const right = Math.max(...at.flatMap((map) => [...map.values()].map((span) => span[1])), 0);
    const every = Math.ceil((scale.high - scale.low) / 4);
    for (let power = scale.high; power >= scale.low; power -= every) {
      made += `<path class="line" stroke-width="0.4" d="M30 ${n(y(10 ** power))}H${n(right)}"/>${text(`1e${power}`, 26, y(10 ** power) + 3, 10, 'class="words"', "end")}`;
    }
    const dashes = ["", ' stroke-dasharray="7 4"', ' stroke-dasharray="2 3"'];
    const named = new Set();
    let legend = 260;
    for (const nodes of series.values()) {
      nodes.sort((a, b) => a.step - b.step);
      const one = nodes[0], points = nodes.filter((node) => at[node.net].has(node.step)).map((node) => [at[node.net].get(node.step)[2], y(node.grad[0]), node]);
      if (!points.length) continue;
      const colour = (data.states[one.gate] || ["#52606D"])[0], look = `fill="none" stroke="${colour}" stroke-width="2"${dashes[Math.abs(one.lane[1]) % 3]}`;
      const name = `${one.name}${data.lanes.length > 1 ? ` (${one.frame})` : ""}`;
      made += `<path ${look} d="M${points.map(([x, y]) => `${n(x)} ${n(y)}`).join("L")}"><title>${escape(name)}</title></path>`;
      made += points.map(([x, y, node]) => `<circle cx="${n(x)}" cy="${n(y)}" r="2.6" fill="${colour}"><title>${escape(`${name}, step ${node.step + 1}: ${short(node.grad[0])}`)}</title></circle>`).join("");
      if (!named.has(name)) {
        named.add(name);
        made += `<path ${look} d="M${legend} ${top + 4}h24"/>${text(name, legend + 30, top + 8, 11, 'class="words"', "start")}`;
        legend += 44 + wide(name, 11);
      }
    }
    return [made, height + 44];
  }

  function diverging(part) {
    const mix = (a, b, t) => a.map((one, i) => Math.round(one + (b[i] - one) * t));
    return part < 0.5 ? mix([0, 90, 181], [247, 247, 247], part * 2) : mix([247, 247, 247], [200, 80, 0], part * 2 - 1);
  }

  function drawUnits(placed, at, top) {
    if (!data.units.length) return ["", 0];
    let made = text("gates and states, units from top to bottom, of the first sequence", -4, top + 8, 12, 'class="strong" font-weight="bold"', "start");
    const ends = [];
    data.nets.forEach((_, net) => {
      let y = top + 20;
      for (const map of data.units.filter((map) => map.net === net)) {
        const bytes = atob(map.bytes), canvas = document.createElement("canvas"), spot = at[net];
        const height = Math.max(Math.min(map.units * 4, 64), 22);
        const name = `${map.gate.replaceAll("_", " ")}${data.lanes.length > 1 ? `, ${map.frame}` : ""}, ${short(map.low)} to ${short(map.high)}`
          + (map.of > map.units ? `, ${map.units} of ${map.of} units` : "");
        made += text(name, Math.min(...[...spot.values()].map((span) => span[0])), y + 9, 10, 'class="words"', "start");
        y += 13;
        for (const band of placed.columns) {
          if (!band.steps || band.net !== map.net || !spot.has(band.steps[0])) continue;
          const steps = band.steps.filter((step) => map.steps.includes(step));
          if (!steps.length) continue;
          canvas.width = steps.length;
          canvas.height = map.units;
          const draw = canvas.getContext("2d"), pixels = draw.createImageData(steps.length, map.units);
          steps.forEach((step, column) => {
            const start = map.steps.indexOf(step) * map.units;
            for (let unit = 0; unit < map.units; unit++) {
              const byte = bytes.charCodeAt(start + unit), part = byte / 254;  // 255 is no number
              const colour = byte === 255 ? [213, 0, 143] : map.low < 0 ? diverging(part) : ramp(part);
              pixels.data.set([...colour, 255], 4 * (unit * steps.length + column));
            }
          });
          draw.putImageData(pixels, 0, 0);
          const [left, right] = [spot.get(steps[0])[0], spot.get(steps[steps.length - 1])[1]];
          made += `<image class="cell" x="${n(left)}" y="${n(y)}" width="${n(right - left)}" height="${height}" preserveAspectRatio="none" href="${canvas.toDataURL()}"/>`;
        }
        y += height + 8;
      }
      ends.push(y);
    });
    return [made, Math.max(...ends) - top];
  }

  // --- The whole ---

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
      if (from && to) parts.push(drawEdge(edge, from, to, placed.nodes, placed.columns));
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
    const drawn = [...placed.nodes.keys()].filter((key) => placed.boxes.has(key)).length;
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
    const used = new Set(placed.edges.filter((edge) => edge.kind === 1).map((edge) => edge.what));
    let made = [...used].map((name) => key(data.states[name][0], name === "gradient" ? "gradient, back in time" : `${name} state`)).join("");
    if (placed.chips.size) made += key(data.parameter[1], placed.shared ? "parameters, the same at every step" : "parameters", true);
    const scale = data.scales[state.color];
    if (scale) {
      const marks = [], shares = state.color === "saturation", steps = shares ? 4 : scale.high - scale.low;
      for (let i = 0; i <= steps; i++) {
        const colour = ramp(i / steps);
        marks.push(`<span style="background:${css(colour)};color:${isDark(colour) ? "#fff" : "#1F2933"}">${shares ? `${25 * i} %` : `1e${scale.low + i}`}</span>`);
      }
      made += `<span>${escape(scale.title)} <span class="bar">${marks.join("")}</span></span>`;
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
      holder.addEventListener(on, (event) => { const node = event.target.closest(".node"); if (node) point(node.dataset.key); });
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
})();
