// What a visitor chose of maps in any tab, {colors, scale, unit}, as the browser keeps it from visit to visit.

const KEPT = "sparnet-maps";

/** What was chosen before, which may be anything; {} if nothing, or storage is blocked. */
function recalled() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

/** Keep what was chosen now, beside what was chosen before. */
function remember(chosen) {
  const { colors, scale, unit } = { ...recalled(), ...chosen };
  try {
    localStorage.setItem(KEPT, JSON.stringify({ colors, scale, unit }));
  } catch {
    // storage is blocked: it holds until the page is closed
  }
}
