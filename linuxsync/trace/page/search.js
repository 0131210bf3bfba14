// search.js: which slices the words of the search field mean.

const UNITS = { ns: 1, us: 1e3, ms: 1e6, s: 1e9 };
const text = (value) => String(value).toLowerCase();

// Each makes of a word's value a question about a slice: true where it is meant.
const KEYS = {
  pid: (value) => byPeople(([tid, , pid]) => text(tid) === value || text(pid) === value),
  comm: (value) => byPeople(([, comm, , process]) => text(comm).includes(value) || text(process ?? "").includes(value)),
  driver: (value) => byTrack((track) => track.kind === "timeline" && text(track.driver).includes(value)),
  timeline: (value) => byTrack((track) => track.kind === "timeline" && text(track.title).includes(value)),
  seqno: (value) => (slice) => !isWait(slice) && text(cell(DATA.fences.seqno, slice)) === value,
  ctx: (value) => (slice) => !isWait(slice) && text(cell(DATA.fences.context, slice)) === value,
  slow: (value) => {
    const [, sign, number, unit] = /^([<>]?)=?([\d.]+)(ns|us|ms|s)?$/.exec(value) ?? [];
    const limit = number * UNITS[unit ?? "ms"];
    if (Number.isNaN(limit)) return null;
    // What has not ended has lasted at least as long as is drawn.
    return (slice) => sign === "<" ? !open[slice] && end[slice] - start[slice] < limit : end[slice] - start[slice] > limit;
  },
};
KEYS.context = KEYS.ctx;
KEYS.tid = KEYS.pid;

const flagged = (flag) => (slice) => !isWait(slice) && (cell(DATA.fences.flags, slice) & flag) !== 0;
const WORDS = {
  error: (slice) => errors.has(slice),
  never: (slice) => !isWait(slice) && open[slice] === 1,
  merged: (slice) => inputs.has(slice) || inputCounts.get(slice) > 0,
  waited: (slice) => waitsFor.has(slice),
  irq: flagged(IN_IRQ),
  ambiguous: flagged(AMBIGUOUS),
  guessed: flagged(GUESSED),
};

// A name is asked once for each thread or track, not once for each of 100,000 fences.
function byPeople(wanted) {
  const meant = DATA.threads.map(wanted);
  return (slice) => {
    if (isWait(slice)) return meant[cell(DATA.waits.thread, slice - FENCES)];
    const creator = cell(DATA.fences.creator, slice), signaler = cell(DATA.fences.signaler, slice);
    // In whose place an interrupt ran has nothing to do with the fence.
    return (creator !== null && meant[creator])
      || (signaler !== null && !(cell(DATA.fences.flags, slice) & IN_IRQ) && meant[signaler])
      || (waitsFor.get(slice) ?? []).some((wait) => meant[cell(DATA.waits.thread, wait - FENCES)]);
  };
}

function byTrack(wanted) {
  const meant = laneTrack.map((number) => wanted(tracks[number]));
  return (slice) => meant[laneOf(slice)];
}

// A word without a key: in the name of a fence, in that of its people, or in a call.
function free(value) {
  const calls = DATA.waits.calls.map((call) => text(call).includes(value));
  const people = KEYS.comm(value);
  return (slice) => isWait(slice)
    ? calls[cell(DATA.waits.call, slice - FENCES)] || people(slice)
    : people(slice) || text(fenceOf(slice).name).includes(value);
}

function question(word) {
  const [, key, value] = /^(\w+):(.*)$/.exec(word) ?? [];
  if (key && Object.hasOwn(KEYS, key)) return value === "" ? () => true : KEYS[key](value);
  return Object.hasOwn(WORDS, word) ? WORDS[word] : free(word);
}

// The first word whose key there is not, and which is in no name either (timelines are called CRTC:38-crtc-0): "key:".
function unknown(words) {
  for (const word of text(words).split(/\s+/)) {
    const [, key] = /^(\w+):/.exec(word) ?? [];
    if (key && !Object.hasOwn(KEYS, key) && !find(word).length) return `${key}:`;
  }
  return null;
}

// The numbers of all slices that every word is true of, in the order of their starts; null: a word makes no sense.
function find(words) {
  const questions = text(words).split(/\s+/).filter(Boolean).map(question);
  if (questions.includes(null)) return null;
  const found = [];
  for (let slice = 0; slice < SLICES; slice++) if (questions.every((meant) => meant(slice))) found.push(slice);
  return found.sort((one, other) => start[one] - start[other] || one - other);
}
