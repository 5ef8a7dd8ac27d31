import * as schema from '../../../schema/sessions.json';
import { DEFAULTS, LATEST_LOOK_S, preferencesOf, SOONEST_LOOK_S } from '../preferences';

const properties: {
  readonly [name: string]: {
    readonly default: unknown;
    readonly minimum?: number;
    readonly maximum?: number;
  };
} = schema.properties;

describe('preferences', () => {
  it('are those of the schema', () => {
    expect(
      Object.fromEntries(Object.keys(properties).map(n => [n, properties[n]?.default]))
    ).toEqual(DEFAULTS);
    expect(properties['lookSeconds']?.minimum).toBe(SOONEST_LOOK_S);
    expect(properties['lookSeconds']?.maximum).toBe(LATEST_LOOK_S);
  });

  it('are as they are set', () => {
    const set = { lookSeconds: 30, chip: 'place', moveNotices: 'failures', filledNotice: false };
    expect(preferencesOf(set)).toEqual(set);
  });

  it('do without what makes no sense', () => {
    expect(preferencesOf({ lookSeconds: 'often', chip: 7, filledNotice: null })).toEqual(DEFAULTS);
    expect(preferencesOf({ lookSeconds: 0.001 }).lookSeconds).toBe(SOONEST_LOOK_S);
    expect(preferencesOf({ lookSeconds: 1e9 }).lookSeconds).toBe(LATEST_LOOK_S);
  });
});
