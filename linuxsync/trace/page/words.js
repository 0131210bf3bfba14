// words.js: times and states as people say them. Names came with everything escaped that may mislead.

// As linuxsync's tables say it: three digits or so.
function duration(ns) {
  if (ns === null) return "-";
  const seconds = ns / 1e9;
  for (const [limit, unit, scale] of [[1e-6, "ns", 1e9], [1e-3, "us", 1e6], [1, "ms", 1e3], [120, "s", 1], [7200, "min", 1 / 60]]) {
    if (Math.abs(seconds) < limit) return `${+(seconds * scale).toPrecision(3)} ${unit}`;
  }
  return `${+(seconds / 3600).toPrecision(3)} h`;
}

// A time since the start, to the nanosecond.
const moment = (ns) => Math.abs(ns) < 1e9 ? `${(ns / 1e6).toFixed(6)} ms` : `${(ns / 1e9).toFixed(9)} s`;

// A tick of the axis: only as many digits as tell it from its neighbours.
function tickText(ns, step) {
  const [unit, scale] = step >= 1e8 ? ["s", 1e9] : step >= 1e3 ? ["ms", 1e6] : ["us", 1e3];
  const digits = Math.max(0, -Math.floor(Math.log10(step / scale) + 1e-9));
  return `${(ns / scale).toFixed(digits)} ${unit}`;
}

const many = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;

function errorName(error) {
  const [name, text] = DATA.errors[error] ?? [String(error), ""];
  return text ? `${name}, ${text}` : name;
}

function who(thread) {
  const process = processName(thread);
  return process && process !== threadName(thread) ? `${threadName(thread)}, in ${process}` : threadName(thread);
}

// One line about how it went.
function outcome(slice) {
  if (isWait(slice)) return open[slice] ? "still waiting at the end" : `waited ${duration(end[slice] - start[slice])}`;
  const fence = fenceOf(slice);
  const lasted = fence.init === null || fence.signal === null ? "" : ` after ${duration(fence.signal - fence.init)}`;
  if (fence.error !== null) return `failed${lasted}: ${errorName(fence.error)}`;
  if (fence.signal !== null) return `signaled${lasted}`;
  return fence.destroy === null ? "never signaled in this recording" : "destroyed without a signal";
}

const nameOf = (slice) => isWait(slice) ? `${waitOf(slice).call} by ${threadName(waitOf(slice).thread)}` : fenceOf(slice).name;

// What a bar is told by: a seqno says nothing where each fence has a context of its own.
function labelOf(slice, track) {
  if (isWait(slice)) return waitOf(slice).call;
  const seqno = cell(DATA.fences.seqno, slice);
  return track.context === null ? `${cell(DATA.fences.context, slice)}-${seqno}` : `#${seqno}`;
}

// The first few of other slices, by name.
const some = (slices, say = nameOf) => slices.length ? `: ${slices.slice(0, 3).map(say).join(", ")}${slices.length > 3 ? ", …" : ""}` : "";

// [what, words] of everything known. named: other slices are named; the panel has links to them.
function factsOf(slice, named = false) {
  const others = named ? some : () => "";
  const facts = [];
  const add = (what, words) => facts.push([what, words]);
  if (isWait(slice)) {
    const wait = waitOf(slice);
    add("Thread", who(wait.thread));
    add("Call", wait.call);
    add("Began", moment(wait.start));
    add("Ended", wait.end === null ? "not in the recording" : `${moment(wait.end)}, ${duration(wait.end - wait.start)} later`);
    if (!wait.fences.length) add("For", "not known");
    else if (named) add("For", many(wait.fences.length, "fence") + others(wait.fences));
    add("Woken by", wait.wokenBy === null ? "no signal of a fence that is known" : fenceOf(wait.wokenBy).name);
    return facts;
  }
  const fence = fenceOf(slice);
  const later = (time) => fence.init === null || time === fence.init ? "" : `, ${duration(time - fence.init)} after init`;
  add("Timeline", `${fence.track.title} of ${fence.track.driver}`);
  add("Context", String(fence.context));
  add("Seqno", String(fence.seqno));
  add("Init", fence.init === null ? "before the recording" : moment(fence.init));
  if (fence.creator !== null) add("Made by", who(fence.creator));
  if (fence.emit !== null) add("Emitted", moment(fence.emit) + later(fence.emit));
  // Where no fence of a timeline has it, its driver does not tell: then this one's means nothing.
  if (fence.track.tells) add("Enabled", fence.enable === null ? "not seen" : moment(fence.enable) + later(fence.enable));
  if (fence.signal === null) {
    add("Signaled", "never");
  } else {
    const wanted = fence.enable === null ? "" : `, ${duration(fence.signal - fence.enable)} after enable`;
    add("Signaled", moment(fence.signal) + later(fence.signal) + wanted);
    add("Clock", fence.flags & EXACT ? "exact: the fence's own timestamp" : "the tracepoint's, a little late");
  }
  if (fence.error !== null) add("Error", errorName(fence.error));
  if (fence.signaler !== null) {
    add("Signaled by", fence.flags & IN_IRQ ? `an interrupt, in place of ${threadName(fence.signaler)}` : who(fence.signaler));
  }
  if (fence.destroy !== null) add("Destroyed", moment(fence.destroy) + later(fence.destroy));
  if (fence.inputs.length || fence.inputCount) {
    const count = Math.max(fence.inputs.length, fence.inputCount ?? 0), missing = count - fence.inputs.length;
    const rest = missing ? `, ${missing} not in the recording` : "";
    const guess = fence.flags & GUESSED ? "; guessed, not seen" : "";
    add("Made of", `${many(count, "fence")}${rest}${guess}${others(fence.inputs)}`);
  }
  if (fence.outputs.length) add("Part of", many(fence.outputs.length, "fence") + others(fence.outputs));
  if (fence.waits.length) add("Waits", many(fence.waits.length, "wait") + others(fence.waits, (wait) => `${nameOf(wait)}, ${outcome(wait)}`));
  if (fence.twins) add("Twins", `made ${many(fence.twins, "time")} more for the same value`);
  if (fence.flags & AMBIGUOUS) add("Ambiguous", "another fence had the same lower 32 bits meanwhile");
  return facts;
}
