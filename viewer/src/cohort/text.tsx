/** Text of the store, whichever way it is written; what is very long is cut, and whole in its title. */
export function Text({ of }: { of: string }) {
  const short = of.length > LONGEST ? `${of.slice(0, LONGEST)}…` : of;
  return <bdi title={short === of ? undefined : of}>{short}</bdi>;
}

const LONGEST = 120;
