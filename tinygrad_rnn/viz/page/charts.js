// Below the graph, aligned to its steps: gradients over time, and gates as units by time.

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

/** Where steps are folded, time is short: said by a shade and by how many there are. */
function folds(placed, at, top, height) {
  return placed.columns.filter((band) => band.folded).map((band) => {
    const [left, right] = [at[band.net].get(band.steps[0])[0], at[band.net].get(band.steps[band.steps.length - 1])[1]];
    return `<rect class="fold" x="${n(left)}" y="${n(top)}" width="${n(right - left)}" height="${n(height)}"/>`
      + text(`${band.steps.length} steps, squeezed`, (left + right) / 2, top + height + 12, 9, 'class="words"');
  }).join("");
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
  let made = folds(placed, at, top + 22, height);
  made += text(`${scale.title}, step by step`, -4, top + 8, 12, 'class="strong" font-weight="bold"', "start");
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
    const colour = (data.states[one.gate] || ["#52606D", "#52606D"])[one.leftward ? 1 : 0], look = `fill="none" stroke="${colour}" stroke-width="2"${dashes[Math.abs(one.lane[1]) % 3]}`;
    const name = `${one.name}${data.lanes.length > 1 ? ` (${one.frame})` : ""}`;
    made += `<path ${look} d="M${points.map(([x, y]) => `${n(x)} ${n(y)}`).join("L")}"><title>${escape(name)}</title></path>`;
    made += points.map(([x, y, node]) => `<circle cx="${n(x)}" cy="${n(y)}" r="2.6" fill="${colour}"><title>${escape(`${name}, step ${node.step + 1}: ${short(node.grad[0])}`)}</title></circle>`).join("");
    if (!named.has(name)) {
      named.add(name);
      made += `<path ${look} d="M${legend} ${top + 4}h24"/>${text(name, legend + 30, top + 8, 11, 'class="words"', "start")}`;
      legend += 44 + wide(name, 11);
    }
  }
  return [made, height + 52];
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
      const start = Math.min(...[...spot.values()].map((span) => span[0])), bar = start + wide(name, 10) + 12;
      made += text(name, start, y + 9, 10, 'class="words"', "start");
      for (let k = 0; k < 9; k++) {
        made += `<rect x="${n(bar + 9 * k)}" y="${n(y + 1)}" width="9" height="8" fill="${css((map.low < 0 ? diverging : ramp)(k / 8))}"/>`;
      }
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
        made += `<image class="cell" x="${n(left)}" y="${n(y)}" width="${n(right - left)}" height="${height}" preserveAspectRatio="none" href="${canvas.toDataURL()}"><title>${escape(`${name}\n${band.words.join(", ")}`)}</title></image>`;
      }
      y += height + 8;
    }
    ends.push(y);
  });
  return [made, Math.max(...ends) - top];
}
