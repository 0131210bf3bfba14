// layout.js: where tracks and lanes are, from top to bottom, and what is at a place.

const NARROW = 640; // in CSS pixels: then names are above their tracks, not beside
const GUTTER = 196, OVERVIEW = 34, AXIS = 22, TOP = OVERVIEW + AXIS;
const PAD = 5, NAME_LINE = 16, MARKS = 9, BESIDE = 36; // BESIDE: the least that two lines of a name take

const TALLER = 1.5; // at most, where few tracks would leave much of the window empty

const layout = { width: 0, height: 0, left: 0, tops: [], heights: [], total: 0, stretch: 1 };

// Many lanes are lower, so that a leak of fences is still a picture and not a mile.
function laneHeight(track) {
  const count = track.lanes[1] - track.lanes[0];
  return Math.round((count <= 6 ? 18 : count <= 16 ? 13 : count <= 64 ? 7 : 4) * layout.stretch);
}

const above = () => layout.left === 0 ? NAME_LINE : 0;

function trackHeight(track) {
  const lanes = (track.lanes[1] - track.lanes[0]) * laneHeight(track);
  const marks = track.kind === "marks" ? 14 : track.marks ? MARKS : 0;
  return Math.max(above() ? 0 : BESIDE, above() + lanes + marks + 2 * PAD);
}

function place(width, height) {
  layout.width = width;
  layout.height = height;
  layout.left = width < NARROW ? 0 : GUTTER;
  layout.stretch = 1;
  const least = tracks.reduce((sum, track) => sum + trackHeight(track), 0);
  layout.stretch = Math.max(1, Math.min(TALLER, (height - TOP) * 0.9 / Math.max(1, least)));
  layout.total = 0;
  layout.tops = tracks.map((track, at) => {
    layout.heights[at] = trackHeight(track);
    return (layout.total += layout.heights[at]) - layout.heights[at];
  });
}

// The first track that is not wholly above this; y counts from the top of the first track.
function trackAt(y) {
  return lowerBound(layout.tops, 0, tracks.length, y + 1) - 1;
}

// Where the lanes of a track begin, below its top: in the middle, where its name takes more.
function lanesTop(track) {
  const lanes = (track.lanes[1] - track.lanes[0]) * laneHeight(track) + (track.marks && track.kind !== "marks" ? MARKS : 0);
  const room = layout.heights[track.number] - above() - lanes;
  return above() + Math.floor(room / 2);
}

// The top of a lane, from the top of the first track, and its height.
function laneBox(lane) {
  const track = tracks[laneTrack[lane]], height = laneHeight(track);
  return [layout.tops[track.number] + lanesTop(track) + (lane - track.lanes[0]) * height, height];
}

// The slices of a track in the order of their starts, whatever lane they are in; made when first asked for.
function inOrder(track) {
  if (!track.order) {
    const [first, last] = track.lanes;
    const count = last > first ? laneTo[last - 1] - laneFrom[first] : 0;
    track.order = Uint32Array.from({ length: count }, (_, at) => laneFrom[first] + at);
    if (last - first > 1) track.order.sort((one, other) => start[one] - start[other] || one - other);
    track.starts = Float64Array.from(track.order, (slice) => start[slice]);
  }
  return track.order;
}

// The slice before (-1) or after (+1) one on its track; itself at the end.
function neighbour(slice, step) {
  const track = trackOf(slice), order = inOrder(track);
  let at = lowerBound(track.starts, 0, order.length, start[slice]);
  while (order[at] !== slice) at++;
  return order[Math.max(0, Math.min(order.length - 1, at + step))];
}

// The slice of the next track in a direction that has any, near a time.
function across(slice, step, time) {
  for (let number = trackOf(slice).number + step; tracks[number]; number += step) {
    const found = nearest(tracks[number], time);
    if (found !== null) return found;
  }
  return slice;
}

// The slice of a track that begins last before a time, or else the first.
function nearest(track, time) {
  const order = inOrder(track);
  if (!order.length) return null;
  return order[Math.max(0, lowerBound(track.starts, 0, order.length, time) - 1)];
}
