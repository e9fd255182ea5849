// What is visible: nodes of the level, closed cells, and one ellipsis for a run of folded steps.

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
