// Chance that can be repeated: each customer draws from a sequence of its own, which the run's seed and its number decide.

// mulberry32
export function chooser(number) {
  let state = (Number(__ENV.SEED) * 0x9e3779b1 + number * 0x85ebca6b) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const chance = (random, probability) => random() < probability;
