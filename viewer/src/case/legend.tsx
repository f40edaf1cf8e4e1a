import { colourOf, css, type Scale } from "./colours.ts";
import { rounded } from "./numbers.ts";

const STOPS = 17;

/** The colours of a map with their numbers. */
export function Legend({ scale, title }: { scale: Scale; title: string }) {
  const low = scale.signed ? -scale.limit : 0;
  const stops = Array.from({ length: STOPS }, (_, at) => css(colourOf(low + ((scale.limit - low) * at) / (STOPS - 1), scale)));
  return (
    <div class="legend" role="img" aria-label={`Colours of ${title}: from ${rounded(low)} to ${rounded(scale.limit)}`}>
      <div class="legend-bar" style={{ background: `linear-gradient(to right, ${stops.join(", ")})` }} />
      <div class="legend-numbers" aria-hidden="true">
        <span>{scale.signed ? `≤ ${rounded(low)}` : "0"}</span>
        {scale.signed && <span>0</span>}
        <span>≥ {rounded(scale.limit)}</span>
      </div>
    </div>
  );
}
