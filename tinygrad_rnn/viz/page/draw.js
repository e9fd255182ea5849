// Drawing: nodes, edges, frames and the axis of time, as text of SVG.

const text = (words, x, y, size, look, anchor = "middle") =>
  `<text x="${n(x)}" y="${n(y)}" font-size="${n(size)}" text-anchor="${anchor}" ${look}>${escape(words)}</text>`;
function arrow(x, y, right, down, width) {
  const size = 5.5 + width, half = 2.2 + width / 2;
  return `M${n(x)} ${n(y)}L${n(x - size * right + half * down)} ${n(y - size * down + half * right)}L${n(x - size * right - half * down)} ${n(y - size * down - half * right)}Z`;
}
const link = (edge, inner) => `<g class="part edge" data-from="${escape(edge.from)}" data-to="${escape(edge.to)}">${inner}</g>`;

function drawEdge(edge, from, to, { nodes, columns, tops, boxes }) {
  if (edge.kind === 2) return "";
  const [x, y] = [from.x + from.w / 2, from.y + from.h / 2], [toX, toY] = [to.x + to.w / 2, to.y + to.h / 2];
  if (edge.kind === 0) {
    const hint = edge.times > 1 ? `<title>×${edge.times}</title>` : "";
    const band = columns.find((one) => one.keys.includes(edge.from)), top = tops.get(edge.from);
    if (top !== undefined && to.y + to.h <= top && !band.keys.includes(edge.to)) {
      const aside = toX >= x ? band.right + 22 : band.x - 22, end = to.y + to.h;  // past the layers above
      return link(edge, `${hint}<path class="line" d="M${n(x)} ${n(from.y)}C${n(x)} ${n(from.y - 16)} ${n(aside)} ${n(from.y - 6)} ${n(aside)} ${n(from.y - 26)}V${n(top)}C${n(aside)} ${n(top - 30)} ${n(toX)} ${n(end + 35)} ${n(toX)} ${n(end + 5)}"/><path class="head" d="${arrow(toX, end, 0, -1, 1.1)}"/>`);
    }
    if (band && band.keys.includes(edge.to)) {
      const between = band.keys.map((key) => boxes.get(key)).filter((box) =>
        to.y + to.h < box.y + box.h / 2 && box.y + box.h / 2 < from.y && box.x < Math.max(x, toX) + 3 && Math.min(x, toX) - 3 < box.x + box.w);
      if (between.length) {  // past what stands between
        const left = Math.min(...between.map((box) => box.x)) - 8, right = Math.max(...between.map((box) => box.x + box.w)) + 8;
        const beside = right - x <= x - left ? right : left, end = to.y + to.h;
        return link(edge, `${hint}<path class="line" d="M${n(x)} ${n(from.y)}C${n(x)} ${n(from.y - 12)} ${n(beside)} ${n(from.y - 4)} ${n(beside)} ${n(from.y - 18)}V${n(end + 20)}C${n(beside)} ${n(end + 8)} ${n(toX)} ${n(end + 18)} ${n(toX)} ${n(end + 5)}"/><path class="head" d="${arrow(toX, end, 0, -1, 1.1)}"/>`);
      }
    }
    if (from.y >= to.y + to.h) {
      const [start, end] = [from.y, to.y + to.h], bend = Math.min((start - end) / 2, 40);
      return link(edge, `${hint}<path class="line" d="M${n(x)} ${n(start)}C${n(x)} ${n(start - bend)} ${n(toX)} ${n(end + 5 + bend)} ${n(toX)} ${n(end + 5)}"/><path class="head" d="${arrow(toX, end, 0, -1, 1.1)}"/>`);
    }
    const way = toX > x ? 1 : -1, end = way > 0 ? to.x : to.x + to.w;
    return link(edge, `${hint}<path class="line" d="M${n(x + way * from.w / 2)} ${n(y)}L${n(end - 5 * way)} ${n(toY)}"/><path class="head" d="${arrow(end, toY, way, 0, 1.1)}"/>`);
  }
  const source = nodes.get(edge.from), back = nodes.get(edge.to).leftward, strange = trouble(source);
  const plain = state.color === "none" || state.color === "saturation", at = plain ? null : part(source);
  const width = plain ? 2.2 : 0.8 + 5.2 * (at ?? 0);
  const colour = strange ? data.strange : data.states[edge.what][back ? 1 : 0];
  const look = `fill="none" stroke="${colour}" stroke-width="${n(width)}"`;
  const name = `<title>${escape(edge.what)} state${source.grad ? `, gradient ${short(source.grad[0])}` : ""}</title>`;
  const side = 4 * edge.among[0] - 2 * (edge.among[1] - 1);
  if (edge.from === edge.to) {
    const right = from.x + from.w, at = y + side;
    return link(edge, `${name}<path ${look} d="M${n(right)} ${n(at - 6)}C${n(right + 34)} ${n(at - 22)} ${n(right + 34)} ${n(at + 22)} ${n(right + 6)} ${n(at + 6)}"/><path fill="${colour}" d="${arrow(right, at + 5, -1, 0, width)}"/>${edge.among[0] ? "" : text("every step", right + 62, y + 4, 10, 'class="words"')}`);
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
  const words = node.lines, plain = state.color === "none" || fill === "#ffffff";
  const [ink, faint] = dark ? ["#ffffff", "#ffffff"] : ["#1F2933", plain ? "#52606D" : "#1F2933"];
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
  const look = `stroke="${line}" stroke-dasharray="3 2"`, under = box.y > node.y + node.h;
  const [start, end] = box.x < node.x ? [box.x + box.w, node.x] : [box.x, node.x + node.w];
  const down = Math.min(Math.max(node.x + node.w / 2, box.x + 12), box.x + box.w - 12);
  const way = under ? `M${n(down)} ${n(box.y)}V${n(node.y + node.h)}` : `M${n(start)} ${n(box.y + box.h / 2)}L${n(end)} ${n(node.y + node.h / 2)}`;
  return `<g class="part chip" data-key="${escape(key)}"><title>${escape(names)}</title><rect x="${n(box.x)}" y="${n(box.y)}" width="${n(box.w)}" height="${n(box.h)}" rx="4" fill="${fill}" ${look}/>${words}<path d="${way}" ${look}/></g>`;
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
  let made = "", before = null, net = null;
  for (const band of placed.columns) {
    if (band.net !== net) before = null;
    net = band.net;
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
