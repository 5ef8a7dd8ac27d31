import { node } from '../../__tests__/facts';
import { ANY, bytesOf, changed, countOf, freeFor, isAsWanted, partsWith } from '../free';

describe('freeFor', () => {
  const pool = [
    node({ id: 'a', used: { 'cuda:0': 0.5 } }),
    node({ id: 'b' }),
    node({ id: 'c', state: 'lost' })
  ];

  it('counts nodes that could take it now, and those that could if they were empty', () => {
    expect(freeFor(pool, ANY)).toEqual({ now: 1, ever: 2 });
  });

  it('counts a device of which a part is free for a part only', () => {
    expect(freeFor(pool, { ...ANY, share: 0.5 })).toEqual({ now: 2, ever: 2 });
    expect(freeFor(pool, { ...ANY, share: 0.75 })).toEqual({ now: 1, ever: 2 });
  });

  it('minds node, kind, number and memory', () => {
    expect(freeFor(pool, { ...ANY, node: 'a' })).toEqual({ now: 0, ever: 1 });
    expect(freeFor(pool, { ...ANY, kind: 'cpu' })).toEqual({ now: 0, ever: 0 });
    expect(freeFor(pool, { ...ANY, devices: 2 })).toEqual({ now: 0, ever: 0 });
    expect(freeFor(pool, { ...ANY, memory_bytes: 150e9 })).toEqual({ now: 0, ever: 0 });
    expect(freeFor(pool, { ...ANY, node: 'c' })).toEqual({ now: 0, ever: 0 });
  });
});

describe('isAsWanted', () => {
  it('looks at what is wanted only', () => {
    const has = { ...ANY, kind: 'cpu', priority: 3 };

    expect(isAsWanted(has, { ...ANY, kind: 'cpu' })).toBe(true);
    expect(isAsWanted(has, ANY)).toBe(false);
  });
});

describe('a change of a wish', () => {
  it('gives up what does not go with it, and nothing else', () => {
    const wish = { ...ANY, standby: 1, share: 0.5 };

    expect(changed(wish, { kind: 'cuda' })).toEqual({ ...wish, kind: 'cuda' });
    expect(changed(wish, { node: 'a' })).toEqual({ ...wish, node: 'a', standby: 0 });
    expect(changed(wish, { devices: 2 })).toEqual({ ...wish, devices: 2, share: 1 });
  });
});

describe('the parts to choose from', () => {
  it('have what was asked for already', () => {
    expect(partsWith(1)).toEqual([1, 0.5, 0.25]);
    expect(partsWith(0.3)).toEqual([1, 0.5, 0.3, 0.25]);
  });
});

describe('what is typed', () => {
  it.each([
    ['3', 3],
    ['1.5', 1],
    ['', 1],
    ['-2', 1],
    ['5000', 1024],
    ['many', 1]
  ])('%j is %j devices', (typed, count) => {
    expect(countOf(typed)).toBe(count);
  });

  it.each([
    ['80', 80e9],
    ['2.3', 2_300_000_000],
    ['', 0],
    ['-1', 0]
  ])('%j GB is %j bytes', (typed, bytes) => {
    expect(bytesOf(typed)).toBe(bytes);
  });
});
