/** What a person can set, with what holds where nothing is set. Pure. */

export interface IPreferences {
  /** Between two looks at the devices while somebody sees them, in seconds. */
  readonly lookSeconds: number;
  /** What the chip in a notebook's toolbar says beside the node and the device. */
  readonly chip: 'memory' | 'place';
  /** Which moves are told of in notices. */
  readonly moveNotices: 'all' | 'failures';
  /** Whether it is told in a notice that missed outputs were filled in. */
  readonly filledNotice: boolean;
}

export const DEFAULTS: IPreferences = {
  lookSeconds: 5,
  chip: 'memory',
  moveNotices: 'all',
  filledNotice: true
};

export const SOONEST_LOOK_S = 1;
export const LATEST_LOOK_S = 600;

/** What stands in the settings; what makes no sense is as if it were not there. */
export function preferencesOf(set: { readonly [name: string]: unknown }): IPreferences {
  const { lookSeconds, chip, moveNotices, filledNotice } = set;
  return {
    lookSeconds:
      typeof lookSeconds === 'number' && lookSeconds > 0
        ? Math.min(LATEST_LOOK_S, Math.max(SOONEST_LOOK_S, lookSeconds))
        : DEFAULTS.lookSeconds,
    chip: chip === 'place' ? 'place' : DEFAULTS.chip,
    moveNotices: moveNotices === 'failures' ? 'failures' : DEFAULTS.moveNotices,
    filledNotice: typeof filledNotice === 'boolean' ? filledNotice : DEFAULTS.filledNotice
  };
}
