// draw.js: a frame. What it costs goes with the pixels and lanes in sight, whatever the number of fences.

const CELL = 2; // CSS pixels: slices narrower than this that begin in one cell are drawn as one
const DIM = 0.16;
// selected: a slice or null. lit: of each slice whether it is not dimmed, or null; litBefore: sums of it. links: arrows.
const state = { selected: null, lit: null, litBefore: null, links: [], pointer: null, hover: null, span: null };

function light(slices) {
  state.lit = slices && new Uint8Array(SLICES);
  if (slices) for (const slice of slices) state.lit[slice] = 1;
  state.litBefore = slices && counted((slice) => state.lit[slice]);
}

let asked = false;
function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw();
  });
}

function resize() {
  const { clientWidth: width, clientHeight: height } = document.getElementById("scroll");
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  place(width, height);
  document.getElementById("spacer").style.height = `${Math.max(layout.total + TOP, height)}px`;
  overview = null;
  redraw();
}

function draw() {
  const ratio = canvas.width / Math.max(1, layout.width);
  stats.frames++;
  stats.primitives = 0;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.globalAlpha = 1;
  pen.fillStyle = ink.bg;
  box(0, 0, layout.width, layout.height);
  pen.save();
  pen.beginPath();
  pen.rect(0, TOP, layout.width, layout.height - TOP);
  pen.clip();
  drawTracks();
  pen.restore();
  drawAxis();
  drawOverview();
  drawPointer();
}

function drawTracks() {
  const y = (track) => TOP + layout.tops[track.number] - view.scroll;
  const first = Math.max(0, trackAt(view.scroll));
  const seen = [];
  for (let at = first; at < tracks.length && y(tracks[at]) < layout.height; at++) seen.push(tracks[at]);
  for (const track of seen) {
    if (track.number % 2) continue;
    pen.fillStyle = ink.band;
    box(0, y(track), layout.width, layout.heights[track.number]);
  }
  drawGrid();
  pen.save();
  pen.beginPath();
  pen.rect(layout.left, 0, layout.width - layout.left, layout.height);
  pen.clip();
  for (const track of seen) {
    const height = laneHeight(track), top = y(track) + lanesTop(track), [first, last] = track.lanes;
    const from = first + Math.max(0, Math.floor((TOP - top) / height));
    const until = Math.min(last, first + Math.ceil((layout.height - top) / height));
    for (let lane = from; lane < until; lane++) drawLane(track, lane, top + (lane - first) * height, height);
    if (track.marks) drawMarks(track, y(track));
  }
  drawSelected();
  pen.restore();
  for (const track of seen) drawName(track, y(track));
}

function drawLane(track, lane, top, height) {
  const last = laneTo[lane], scale = perNs();
  const y = top + 1, h = height - (height > 8 ? 3 : 1);
  let slice = lowerBound(end, laneFrom[lane], last, view.from);
  // A run of cells that look the same is one box.
  let run = null;
  const marked = []; // drawn last, on top
  const flush = () => {
    if (!run) return;
    pen.globalAlpha = run.alpha;
    pen.fillStyle = run.fill;
    box(run.x, y, run.until - run.x, h);
    run = null;
  };
  while (slice < last && start[slice] <= view.to) {
    const x0 = toX(start[slice]), x1 = toX(end[slice]);
    if (x1 - x0 >= CELL) {
      flush();
      drawSlice(track, slice, x0, x1, y, h);
      slice++;
      continue;
    }
    const x = Math.floor(x0 / CELL) * CELL, until = toTime(x + CELL);
    let next = Math.max(slice + 1, lowerBound(start, slice + 1, last, until));
    // Only the last that begins in the cell can be longer than it.
    if (next > slice + 1 && (end[next - 1] - start[next - 1]) * scale >= CELL) next--;
    const full = Math.min(1, (busy[next] - busy[slice]) * scale / CELL);
    const shown = !state.lit || state.litBefore[next] > state.litBefore[slice];
    const alpha = (0.4 + 0.2 * Math.ceil(full * 3)) * (shown ? 1 : DIM);
    const fill = unended[next] - unended[slice] === next - slice ? hatchOf(track) : fillOf(track);
    if (run && run.until === x && run.alpha === alpha && run.fill === fill) run.until = x + CELL;
    else {
      flush();
      run = { x, until: x + CELL, alpha, fill };
    }
    if (failed[next] > failed[slice] && !(x - marked.at(-1)?.[0] < 5)) marked.push([x + CELL / 2, shown]);
    slice = next;
  }
  flush();
  for (const [x, shown] of marked) drawError(x, y, shown);
  pen.globalAlpha = 1;
}

function drawSlice(track, slice, x0, x1, y, h) {
  const left = Math.max(x0, layout.left - 4), right = Math.min(x1, layout.width + 4);
  const width = Math.max(1, right - left - (right - left > 3 ? 1 : 0));
  const shown = !state.lit || state.lit[slice] === 1;
  pen.globalAlpha = shown ? 1 : DIM;
  pen.fillStyle = open[slice] ? hatchOf(track) : fillOf(track);
  box(left, y, width, h);
  if (isWait(slice)) {
    pen.fillStyle = ink["wait-line"];
    box(left, y, width, 1);
    box(left, y + h - 1, width, 1);
  } else if (!open[slice]) {
    drawEarly(slice, left, y, width, h);
  }
  const early = bornBefore(slice);
  if (open[slice] && end[slice] >= DURATION && x1 < layout.width) drawTorn(x1 - 1, y, h, 1);
  if (early && x0 > layout.left - 4) drawTorn(x0, y, h, -1);
  if (errors.has(slice)) drawError(right - 1, y, shown, h > 8 && width > 12 ? h : 0);
  if (h >= 10 && width > 26) {
    const words = labelOf(slice, track);
    const longer = open[slice] || early ? words : `${words}  ${duration(end[slice] - start[slice])}`;
    const at = Math.max(left, layout.left) + 4, space = left + width - at - (errors.has(slice) ? 12 : 3);
    pen.font = `11px ${FONT}`;
    pen.textBaseline = "middle";
    pen.fillStyle = isWait(slice) || open[slice] ? ink.text : ink["on-hue"];
    // Half a number would be another number; half a name is still one.
    const whole = [longer, words].find((some) => cut(some, space) === some);
    const fitting = whole ?? (isWait(slice) ? cut(words, space) : "");
    if (!fitting) return;
    if (open[slice]) {
      const under = pen.measureText(fitting).width;
      pen.fillStyle = ink.bg;
      box(at - 3, y + 1, under + 6, h - 2);
      pen.fillStyle = ink.text;
    }
    write(fitting, at, y + h / 2 + 0.5);
  }
}

// Nobody wanted to know of its signal yet: that part is pale. Where a driver does not tell, none is.
function drawEarly(slice, left, y, width, h) {
  const until = Math.min(toX(start[slice] + cell(DATA.fences.pale, slice)), left + width);
  if (until - left < 2) return;
  const alpha = pen.globalAlpha;
  pen.globalAlpha = alpha * 0.42;
  pen.fillStyle = ink.bg;
  box(left, y, until - left, h);
  pen.globalAlpha = alpha;
}

// Torn off where the recording begins (side -1) or ends (1).
function drawTorn(x, y, h, side) {
  pen.fillStyle = ink.bg;
  const teeth = Math.max(1, Math.round(h / 5)), tooth = h / teeth;
  const points = [[x + 2 * side, y - 0.5]];
  for (let at = 0; at < teeth; at++) points.push([x - 4 * side, y + tooth * (at + 0.5)], [x + side, y + tooth * (at + 1)]);
  points.push([x + 2 * side, y + h + 0.5]);
  shape(points);
  pen.fill();
}

// A cap with a cross where there is room, else a triangle: seen whatever the colours.
function drawError(x, y, shown, h = 0) {
  pen.globalAlpha = shown ? 1 : DIM * 2;
  pen.fillStyle = ink.error;
  if (!h) {
    shape([[x - 4, y - 1], [x + 4, y - 1], [x, y + 6]]);
    pen.fill();
    return;
  }
  box(x - 11, y, 11, h);
  pen.strokeStyle = ink.bg;
  pen.lineWidth = 1.8;
  const middle = y + h / 2;
  line(x - 8.5, middle - 3, x - 2.5, middle + 3);
  line(x - 8.5, middle + 3, x - 2.5, middle - 3);
}

// Moments, at least two pixels apart: what is closer would be the same line.
function drawMarks(track, top) {
  const { times } = track.marks, alone = track.kind === "marks";
  const room = layout.heights[track.number] - above(), h = alone ? Math.min(16, room - 8) : MARKS - 2;
  const lanes = (track.lanes[1] - track.lanes[0]) * laneHeight(track);
  const y = alone ? top + above() + (room - h) / 2 : top + lanesTop(track) + lanes + 1;
  pen.fillStyle = fillOfMarks(track);
  for (let at = lowerBound(times, 0, times.length, view.from); at < times.length && times[at] <= view.to;) {
    const x = toX(times[at]);
    if (alone) box(x - 0.5, y, 1.2, h);
    else {
      shape([[x, y], [x + 3.5, y + h], [x - 3.5, y + h]]);
      pen.fill();
    }
    at = Math.max(at + 1, lowerBound(times, at + 1, times.length, toTime(x + (alone ? 2 : 5))));
  }
  pen.globalAlpha = 1;
}

function drawSelected() {
  const middle = (slice) => {
    const [top, height] = laneBox(laneOf(slice));
    return TOP + top - view.scroll + height / 2 - 0.5;
  };
  const near = (x) => Math.max(-5000, Math.min(layout.width + 5000, x));
  for (const [from, to] of state.links) {
    const meets = Math.max(start[to], Math.min(end[to], end[from]));
    const x0 = near(toX(end[from])), x1 = near(toX(meets)), y0 = middle(from), y1 = middle(to);
    const out = (a, b, least, most) => (a < least && b < least) || (a > most && b > most);
    if (!out(x0, x1, layout.left, layout.width) && !out(y0, y1, TOP, layout.height)) {
      arrow(x0, y0, x1, y1, toX(end[to]) > x1 + 12 ? laneBox(laneOf(to))[1] / 2 - 1 : 0);
    }
  }
  for (const slice of new Set([state.hover, state.selected])) {
    if (slice === null) continue;
    const [top, height] = laneBox(laneOf(slice));
    const x0 = Math.max(toX(start[slice]), layout.left - 5), x1 = Math.min(toX(end[slice]), layout.width + 5);
    pen.strokeStyle = slice === state.selected ? ink.text : ink.muted;
    pen.lineWidth = slice === state.selected ? 2 : 1;
    stats.primitives++;
    pen.strokeRect(x0 - 1, TOP + top - view.scroll, Math.max(3, x1 - x0 + 1), height - (height > 8 ? 1 : 0));
  }
}

function drawName(track, top) {
  const height = layout.heights[track.number], beside = layout.left > 0;
  pen.textBaseline = "alphabetic";
  if (beside) {
    pen.fillStyle = track.number % 2 ? ink.bg : ink.band;
    box(0, top, layout.left, height);
  }
  const hue = track.hue < 0 ? ink["wait-line"] : ink.hues[track.hue];
  pen.fillStyle = track.kind === "marks" ? fillOfMarks(track) : hue;
  const bar = beside ? height - 10 : 10;
  box(beside ? 8 : 6, top + 5, 3, bar);
  const x = beside ? 18 : 14, width = beside ? layout.left - x - 10 : layout.width - x - 8;
  pen.font = `600 12px ${FONT}`;
  pen.fillStyle = ink.text;
  const title = cut(track.title, beside ? width : width * 0.6);
  // A track that is taller than what is in sight keeps its name there.
  const y = Math.max(top, Math.min(TOP, top + height - BESIDE)) + (beside ? 16 : 14);
  write(title, x, y);
  const after = beside ? 0 : pen.measureText(title).width + 8;
  pen.font = `11px ${FONT}`;
  pen.fillStyle = ink.muted;
  write(cut(track.detail, width - after), x + after, beside ? y + 14 : y);
}
