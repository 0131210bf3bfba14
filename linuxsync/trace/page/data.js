// data.js: the recording, from columns of JSON to typed arrays.
//
// Fences and waits are "slices" of one numbering: 0 .. F-1 are fences, F .. N-1 waits. They come sorted by track, lane
// and start, so a lane is a range of numbers, and binary search and sums over a range need no other index.

const DATA = JSON.parse(document.getElementById("data").textContent);
const ABOUT = DATA.about;
const DURATION = ABOUT.duration;
const FENCES = DATA.fences.count;
const SLICES = FENCES + DATA.waits.count;
const BORN_BEFORE = 1, EXACT = 2, IN_IRQ = 4, GUESSED = 8, AMBIGUOUS = 16; // as in page.py

// A column in which all are the same comes as that value alone.
const cell = (column, at) => Array.isArray(column) ? column[at] : column;

// Times came as what each is more than the one before.
function sums(steps) {
  let sum = 0;
  return Float64Array.from(steps, (step) => sum += step);
}

const start = new Float64Array(SLICES);
const end = new Float64Array(SLICES); // of what has none: that of the recording
const open = new Uint8Array(SLICES); // 1: never signaled, or a wait whose end is not in the recording
const errors = new Map(DATA.fences.error);
const twins = new Map(DATA.fences.twins);
const inputCounts = new Map(DATA.fences.input_count);
const inputs = new Map(DATA.fences.inputs.map(([fence, ...others]) => [fence, others]));
const outputs = new Map();
const waitsFor = new Map(); // fence -> waits
const awaited = new Map(); // wait -> fences

const fill = (map, key, value) => map.has(key) ? map.get(key).push(value) : map.set(key, [value]);

start.set(sums(DATA.fences.start));
start.set(sums(DATA.waits.start), FENCES);
for (let fence = 0; fence < FENCES; fence++) {
  const lasts = cell(DATA.fences.signal, fence), gone = cell(DATA.fences.destroy, fence);
  open[fence] = lasts === null ? 1 : 0;
  // A clock that went back, or a file that lies: nothing ends before its start.
  end[fence] = Math.max(start[fence], lasts !== null ? start[fence] + lasts : gone !== null ? start[fence] + gone : DURATION);
}
for (const [fence, others] of inputs) for (const other of others) fill(outputs, other, fence);
for (let at = 0; at < DATA.waits.count; at++) {
  const wait = FENCES + at, lasts = cell(DATA.waits.end, at);
  open[wait] = lasts === null ? 1 : 0;
  end[wait] = Math.max(start[wait], lasts === null ? DURATION : start[wait] + lasts);
  awaited.set(wait, DATA.waits.fences[at]);
  for (const fence of DATA.waits.fences[at]) fill(waitsFor, fence, wait);
}

// tracks: {kind: "timeline" | "waits" | "marks", title, detail, hue, lanes: [first lane, past the last], marks}.
const tracks = [];
const laneFrom = [], laneTo = [], laneTrack = [];
const drivers = [];

function addTrack(track, counts, first) {
  const before = laneFrom.length;
  for (const count of counts) {
    laneFrom.push(first);
    laneTo.push(first += count);
    laneTrack.push(tracks.length);
  }
  tracks.push({ ...track, number: tracks.length, lanes: [before, laneFrom.length] });
  return first;
}

const threadName = (number) => {
  const [tid, comm] = DATA.threads[number];
  return `${comm} ${tid}`;
};
const processName = (number) => {
  const [, , pid, process] = DATA.threads[number];
  return pid === null ? "" : `${process ?? "?"} ${pid}`;
};

for (const [sort, name, times, texts] of DATA.marks) {
  const detail = sort === "vblank" ? "vblank" : "event";
  const marks = { times: sums(times), text: (at) => `${sort} ${cell(texts, at)}` };
  addTrack({ kind: "marks", title: name, detail, hue: -1, marks }, [], 0);
}
let firstOfTrack = 0;
for (const [driver, name, context, counts, times, values, tells] of DATA.timelines) {
  if (!drivers.includes(driver)) drivers.push(driver);
  const detail = context === null ? driver : `${driver}, context ${context}`;
  const marks = times.length ? { times: sums(times), text: (at) => `INC, the value was ${values[at]}` } : null;
  const track = { kind: "timeline", title: name, detail, hue: drivers.indexOf(driver) % 5, driver, context, marks, tells };
  firstOfTrack = addTrack(track, counts, firstOfTrack);
}
for (const [thread, counts] of DATA.waiters) {
  const detail = processName(thread) ? `waits, in ${processName(thread)}` : "waits";
  firstOfTrack = addTrack({ kind: "waits", title: threadName(thread), detail, hue: -1, thread }, counts, firstOfTrack);
}

// The lowest number in [from, to) whose value is at least this; values are in order there.
function lowerBound(values, from, to, value) {
  while (from < to) {
    const middle = (from + to) >>> 1;
    if (values[middle] < value) from = middle + 1;
    else to = middle;
  }
  return from;
}

const laneOf = (slice) => lowerBound(laneTo, 0, laneTo.length, slice + 1);
const trackOf = (slice) => tracks[laneTrack[laneOf(slice)]];
const bornBefore = (slice) => slice < FENCES && (cell(DATA.fences.flags, slice) & BORN_BEFORE) !== 0;
const isWait = (slice) => slice >= FENCES;

// Sums before each slice: what a range has of it is one subtraction, however many are merged into a pixel.
function counted(what) {
  const found = new Float64Array(SLICES + 1);
  for (let slice = 0; slice < SLICES; slice++) found[slice + 1] = found[slice] + what(slice);
  return found;
}
const busy = counted((slice) => end[slice] - start[slice]);
const failed = counted((slice) => errors.has(slice) ? 1 : 0);
const unended = counted((slice) => open[slice]);

// All of a fence, for words and search.
function fenceOf(fence) {
  const columns = DATA.fences, track = trackOf(fence);
  const at = (column) => {
    const offset = cell(columns[column], fence);
    return offset === null ? null : start[fence] + offset;
  };
  const context = cell(columns.context, fence), seqno = cell(columns.seqno, fence), flags = cell(columns.flags, fence);
  return {
    track, context, seqno, flags, name: `${track.driver}-${track.title}${context}-${seqno}`,
    init: flags & BORN_BEFORE ? null : start[fence], emit: at("emit"), enable: at("enable"), signal: at("signal"),
    destroy: at("destroy"), creator: cell(columns.creator, fence), signaler: cell(columns.signaler, fence),
    error: errors.get(fence) ?? null, inputs: inputs.get(fence) ?? [], inputCount: inputCounts.get(fence) ?? null,
    outputs: outputs.get(fence) ?? [], waits: waitsFor.get(fence) ?? [], twins: twins.get(fence) ?? 0,
  };
}

function waitOf(wait) {
  const columns = DATA.waits, at = wait - FENCES;
  return {
    track: trackOf(wait), call: columns.calls[cell(columns.call, at)], thread: cell(columns.thread, at),
    start: start[wait], end: open[wait] ? null : end[wait], fences: awaited.get(wait),
    wokenBy: cell(columns.woken_by, at),
  };
}
