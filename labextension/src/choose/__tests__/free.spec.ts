import { node } from '../../__tests__/facts';
import { ANY, freeFor, isAsWanted } from '../free';

describe('freeFor', () => {
  const pool = [
    node({ id: 'a', leased: ['cuda:0'] }),
    node({ id: 'b' }),
    node({ id: 'c', state: 'lost' })
  ];

  it('counts nodes that could take it now, and those that could if they were empty', () => {
    expect(freeFor(pool, ANY)).toEqual({ now: 1, ever: 2 });
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
