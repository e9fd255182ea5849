// What the page knows: the data, what is chosen, words, numbers and colours.

const data = JSON.parse(document.querySelector(".data").textContent);
const find = (selector) => document.querySelector(selector);
const holder = find(".picture"), status = find(".status");
const state = {
  level: data.level, color: data.color, hidden: new Set(data.hidden), toggled: new Set(), chips: data.params,
  box: null, found: -1,
};

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
  const inside = state.color === "grad" && node.kind === "ellipsis" && node.norms.length;
  const numbers = inside ? [Math.max(...node.norms)] : node[state.color];
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
  if (at === 0 && state.color !== "saturation" && node[state.color][0] === 0) return { fill: data.zero, dark: false };
  return at === null ? { fill: "#ffffff", dark: false } : { fill: css(ramp(at)), dark: isDark(ramp(at)) };
}
