// The service's words in plain ones. A word that is not known here is shown as it came.

const SOURCES = {
  personal: "Made for this listener, from what they did.",
  precomputed: "Made for this listener ahead of time.",
  segment_trending: "Trending among similar listeners: nothing is known yet of what this one likes.",
  trending: "Trending with everybody: nothing is known yet of what this listener likes.",
  baseline: "Made by the baseline this listener's variant is served by.",
};

const DEGRADED = {
  deadline: "The personal list was not ready in time.",
  reranker_budget: "Other lists of the same request took the time for the second ranking; the first one stands.",
  reranker_failed: "The second ranking failed; the first one stands.",
  reranker_missing: "The bundle has no second ranking; the first one stands.",
  reranker_slow: "The second ranking took too long; the first one stands.",
  tower_failed: "The model failed on this request.",
  kind_unavailable: "There is no model for this kind.",
};

export function source(word) {
  return SOURCES[word] ?? `Source: ${word}.`;
}

export function degraded(word) {
  return DEGRADED[word] ?? `Fell away: ${word}.`;
}

export const DEEDS = {
  click: "opened",
  listen: "played",
  skip: "skipped",
  follow: "followed",
  unfollow: "no longer follow",
};

export function counted(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}
