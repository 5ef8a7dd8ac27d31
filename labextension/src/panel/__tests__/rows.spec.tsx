import { rowAt, topsOf } from '../rows';

describe('rows of a long list', () => {
  const tops = topsOf([1, 2, 3], devices => 10 * devices);

  it('begin where the one before ends, and the last tells the length of the list', () => {
    expect(tops).toEqual([0, 10, 30, 60]);
    expect(topsOf([], () => 10)).toEqual([0]);
  });

  it('are found by their height', () => {
    expect([0, 9, 10, 29, 30, 59].map(y => rowAt(tops, y))).toEqual([0, 0, 1, 1, 2, 2]);
  });

  it('are the first and the last where nothing is', () => {
    expect([-5, 60, 1e9].map(y => rowAt(tops, y))).toEqual([0, 2, 2]);
    expect(rowAt([0], 5)).toBe(0);
  });
});
