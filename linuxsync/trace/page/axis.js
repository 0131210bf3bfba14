// axis.js: the time above the tracks: an overview of all of it, the axis of what is in sight, and the pointer's line.

let overview = null; // a picture, drawn once for each width and theme

function drawGrid() {
  const step = tickStep(84);
  pen.fillStyle = ink.grid;
  for (let tick = Math.ceil(view.from / step) * step; tick <= view.to; tick += step) {
    const x = Math.round(toX(tick));
    if (x >= layout.left) box(x, TOP, 1, layout.height);
  }
}

function drawAxis() {
  const step = tickStep(84);
  pen.fillStyle = ink.bg;
  box(0, OVERVIEW, layout.width, AXIS);
  pen.font = `11px ${FONT}`;
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  for (let tick = Math.ceil(view.from / step) * step; tick <= view.to; tick += step) {
    const x = Math.round(toX(tick)), words = tickText(Math.abs(tick) < step / 1e6 ? 0 : tick, step);
    pen.fillStyle = ink.line;
    box(x, TOP - 5, 1, 5);
    pen.fillStyle = ink.muted;
    const half = pen.measureText(words).width / 2 + 2;
    if (x - half >= layout.left && x + half <= layout.width) write(words, x, OVERVIEW + 9);
  }
  pen.textAlign = "left";
  pen.fillStyle = ink.line;
  box(0, TOP - 1, layout.width, 1);
  if (layout.left) box(layout.left - 1, 0, 1, layout.height);
}

const overviewX = (time) => layout.left + (time / WHOLE + EDGE) / (1 + 2 * EDGE) * room();
const overviewTime = (x) => ((x - layout.left) / room() * (1 + 2 * EDGE) - EDGE) * WHOLE;

// The most fences that were alive at one moment.
function mostAlive() {
  const starts = start.slice(0, FENCES).sort(), ends = end.slice(0, FENCES).sort();
  let most = 0;
  for (let begun = 0, over = 0; begun < FENCES; begun++) {
    while (ends[over] <= starts[begun]) over++;
    most = Math.max(most, begun + 1 - over);
  }
  return most;
}
const MOST = mostAlive();

// How many fences were alive in each pixel, on average, and where one failed: one pass over all, and one picture.
function makeOverview() {
  const width = Math.max(1, Math.ceil(room())), ratio = canvas.width / Math.max(1, layout.width);
  const picture = document.createElement("canvas"), bad = new Uint8Array(width + 1);
  // whole: how many begin to fill all of a pixel, less those that end to; alive: what they fill of it.
  const whole = new Float64Array(width + 2), alive = new Float64Array(width + 2);
  const column = (time) => Math.max(0, Math.min(width, overviewX(time) - layout.left));
  for (let fence = 0; fence < FENCES; fence++) {
    const from = column(start[fence]), to = column(end[fence]), first = Math.floor(from), last = Math.floor(to);
    if (first === last) alive[first] += to - from;
    else {
      alive[first] += first + 1 - from;
      alive[last] += to - last;
      whole[first + 1]++;
      whole[last]--;
    }
    if (errors.has(fence)) bad[last] = 1;
  }
  let most = 1e-9;
  for (let x = 0, sum = 0; x < width; x++) {
    alive[x] += sum += whole[x];
    most = Math.max(most, alive[x]);
  }
  picture.width = width * ratio;
  picture.height = OVERVIEW * ratio;
  const brush = picture.getContext("2d");
  brush.scale(ratio, ratio);
  for (let x = 0; x < width; x++) {
    const height = alive[x] / most * (OVERVIEW - 8);
    brush.fillStyle = ink.hues[0];
    if (alive[x]) brush.fillRect(x, OVERVIEW - 2 - height, 1, height);
    brush.fillStyle = ink.error;
    if (bad[x]) brush.fillRect(x - 1, 0, 3, 5);
  }
  return picture;
}

function drawOverview() {
  pen.fillStyle = ink.band;
  box(0, 0, layout.width, OVERVIEW);
  if (!FENCES) return;
  overview ??= makeOverview();
  stats.primitives++;
  pen.globalAlpha = 0.75;
  pen.drawImage(overview, layout.left, 0, Math.ceil(room()), OVERVIEW);
  pen.globalAlpha = 1;
  const x0 = overviewX(view.from), x1 = Math.max(x0 + 2, overviewX(view.to));
  pen.fillStyle = ink.shade;
  box(layout.left, 0, x0 - layout.left, OVERVIEW);
  box(x1, 0, layout.width - x1, OVERVIEW);
  pen.strokeStyle = ink.muted;
  pen.lineWidth = 1;
  pen.strokeRect(x0 + 0.5, 0.5, Math.max(1, x1 - x0 - 1), OVERVIEW - 1);
  if (!layout.left) return;
  pen.font = `11px ${FONT}`;
  pen.textBaseline = "middle";
  pen.fillStyle = ink.muted;
  write(cut(`fences alive, at most ${MOST}`, layout.left - 26), 18, OVERVIEW / 2);
}

// The time under the pointer, or the span that is being measured.
function drawPointer() {
  const { pointer, span } = state;
  if (span) {
    const [from, to] = [Math.min(...span), Math.max(...span)], x0 = toX(from), x1 = toX(to);
    pen.globalAlpha = 0.18;
    pen.fillStyle = ink.accent;
    box(x0, TOP, x1 - x0, layout.height);
    pen.globalAlpha = 1;
    flag((x0 + x1) / 2, duration(to - from));
  } else if (pointer && pointer.x > layout.left) {
    pen.globalAlpha = 0.6;
    pen.fillStyle = ink.muted;
    box(Math.round(pointer.x), TOP, 1, layout.height);
    pen.globalAlpha = 1;
    flag(pointer.x, moment(toTime(pointer.x)));
  }
}

function flag(x, words) {
  pen.font = `600 11px ${FONT}`;
  pen.textBaseline = "middle";
  const width = pen.measureText(words).width + 12;
  const left = Math.max(layout.left, Math.min(layout.width - width, x - width / 2));
  pen.fillStyle = ink.text;
  box(left, OVERVIEW + 1, width, AXIS - 4);
  pen.fillStyle = ink.bg;
  write(words, left + 6, OVERVIEW + AXIS / 2);
}
