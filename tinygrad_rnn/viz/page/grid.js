// The grid: time gives the columns, layers and depth the rows. As `place.py`, for cells that open and close.

const BESIDE = 10, ROW = 20, COLUMN = 64, LAYER = 30, UNDER = 8;

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
  const isWhole = (node) => node.closed || node.kind === "ellipsis";
  const lanes = data.lanes.map(String), laneOf = (node) => lanes.indexOf(String(node.lane));
  if (state.chips) {
    for (const edge of edges) {
      if (edge.kind !== 2 || nodes.get(edge.to).kind === "ellipsis") continue;
      if (!chips.has(edge.to)) chips.set(edge.to, []);
      chips.get(edge.to).push(nodes.get(edge.from));
    }
  }
  const chipLines = (key) => {
    const names = chips.get(key).map((node) => data.short[node.id] || node.name);
    return names.reduce((lines, name, i) => (i % 2 ? [...lines.slice(0, -1), `${lines[lines.length - 1]}  ${name}`] : [...lines, name]), []);
  };
  const size = (key) => {
    if (!key.startsWith("chip ")) return [nodes.get(key).w, nodes.get(key).h];
    const lines = chipLines(key.slice(5));
    return [Math.max(...lines.map((line) => wide(line, 9))) + 10, 8 + lines.length * 11];
  };
  // Where states leave, chips stand below, out of their way.
  const rowOf = (key) => { const node = nodes.get(key); return isWhole(node) && node.kind !== "ellipsis" ? `${laneOf(node)}` : `${laneOf(node)} ${node.depth}`; };
  const leaving = new Set(edges.filter((edge) => edge.kind === 1 && nodes.get(edge.from).kind !== "ellipsis").map((edge) => rowOf(edge.from)));
  const isBelow = (key) => chips.has(key) && laneOf(nodes.get(key)) >= 0 && leaving.has(rowOf(key));
  const hanging = new Map();
  const hang = (key) => { if (isBelow(key)) hanging.set(rowOf(key), Math.max(hanging.get(rowOf(key)) || 0, size(`chip ${key}`)[1] + UNDER)); };
  // Rows of a lane by depth; what is closed or folded stands in its middle.
  const given = [], tall = lanes.map(() => new Map()), least = lanes.map(() => 0);
  const shares = new Set();  // lanes where something else stands in the column of a closed cell
  for (const { keys } of columns) {
    const whole = new Set(keys.map((key) => nodes.get(key)).filter((node) => node.closed && !node.given).map(laneOf));
    for (const key of keys) if (!isWhole(nodes.get(key)) && whole.has(laneOf(nodes.get(key)))) shares.add(laneOf(nodes.get(key)));
  }
  for (const { keys } of columns) {
    for (const key of keys) {
      const node = nodes.get(key), lane = laneOf(node);
      hang(key);
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
    const hung = hanging.get(`${lane}`) || 0;
    if (shares.has(lane)) put(`${lane}`, least[lane], ROW + hung);
    for (const depth of depths) put(`${lane} ${depth}`, tall[lane].get(depth), ROW + (hanging.get(`${lane} ${depth}`) || 0));
    if (y - ROW - top < least[lane] + hung) y = top + least[lane] + hung + ROW;
    if (!shares.has(lane)) middle.set(`${lane}`, depths.length ? (top + y - ROW) / 2 : top + least[lane] / 2);
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
  const tops = new Map();
  const frames = [];
  for (const band of columns) {
    if (net !== null && band.net !== net) x += COLUMN;
    net = band.net;
    const rows = new Map(), cells = new Map();
    const enters = (key) => (takers.has(key) !== nodes.get(key).leftward ? 0 : 1);
    for (const key of [...band.keys].sort((a, b) => enters(a) - enters(b))) {
      const node = nodes.get(key), lane = laneOf(node);
      const row = node.given || lane < 0 ? "given" : isWhole(node) ? `${lane}` : `${lane} ${node.depth}`;
      const chip = chips.has(key) && !isBelow(key) ? [`chip ${key}`] : [];
      if (!rows.has(row)) rows.set(row, []);
      rows.get(row).push(...(node.leftward ? [...chip, key] : [key, ...chip]));
      if (!band.start && !node.given && lane >= 0 && !isWhole(node)) {
        if (!cells.has(lane)) cells.set(lane, []);
        cells.get(lane).push(key);
      }
    }
    const sides = [...rows.values()].map(halves);
    const least = band.folded ? Math.min(6 * band.steps.length, 180) / 2 : 0;  // the charts below need it
    const below = band.keys.filter(isBelow), hung = Math.max(0, ...below.map((key) => size(`chip ${key}`)[0] + UNDER));
    const [left, right] = [0, 1].map((side) => Math.max(least, hung, ...sides.map((half) => half[side])));
    for (const [row, keys] of rows) line(keys, x + left, middle.get(row));
    for (const key of below) {
      const box = boxes.get(key), [w, h] = size(`chip ${key}`), aside = nodes.get(key).leftward ? -w - UNDER : UNDER;
      boxes.set(`chip ${key}`, { x: box.x + box.w / 2 + aside, y: box.y + box.h + UNDER, w, h });
    }
    const highest = Math.max(...band.keys.filter((key) => !nodes.get(key).given).map((key) => laneOf(nodes.get(key))), -1);
    const top = Math.min(...band.keys.map((key) => boxes.get(key).y)) - ROW;
    for (const key of band.keys) if (!nodes.get(key).given && laneOf(nodes.get(key)) < highest) tops.set(key, top);
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
  const tallest = Math.max(...side.map(([, node]) => node.h)) + BESIDE;
  const stacks = Math.ceil(side.length / Math.max(Math.floor(Math.max(ground, 200) / tallest), 1));
  const each = Math.ceil(side.length / stacks), first = width + (boxes.size ? COLUMN : 0);
  let from = first, widest = 0, lowest = 0;
  side.forEach(([key, node], i) => {
    if (i && i % each === 0) { from += widest + BESIDE; widest = 0; }
    boxes.set(key, { x: from, y: (i % each) * tallest, w: node.w, h: node.h });
    widest = Math.max(widest, node.w);
    lowest = Math.max(lowest, (i % each + 1) * tallest);
  });
  const parameters = side.length ? { x: first - 10, y: -26, w: Math.max(from + widest - first, 190) + 20, h: lowest + 30 } : null;
  return { ...shown, columns, tops, boxes, chips, chipLines, frames, parameters, width, ground, shared: side.every(([, node]) => data.shared.includes(node.id)) };
}
