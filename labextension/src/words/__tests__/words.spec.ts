import { migration, node, session, words } from '../../__tests__/facts';
import { age, amount, duration, share } from '../amounts';
import { deviceName, hasRoom, place } from '../devices';
import { possiblePaths, sessionTitle } from '../names';

describe('amounts', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1500, '1.5 KB'],
    [34e9, '34 GB'],
    [2e12, '2.0 TB']
  ])('%d bytes are %s', (bytes, expected) => expect(amount(words.trans, bytes)).toBe(expected));

  it.each([
    [0.0042, '4.2 ms'],
    [0.3, '300 ms'],
    [2.34, '2.3 s'],
    [45, '45 s'],
    [600, '10 min'],
    [5 * 3600, '5 h'],
    [100 * 3600, '4 d']
  ])('%d seconds are %s', (seconds, expected) =>
    expect(duration(words.trans, seconds)).toBe(expected)
  );

  it('has one unit for used and whole', () => {
    expect(share(words.trans, 34e9, 141e9)).toBe('34/141 GB');
    expect(share(words.trans, 0.4e9, 8e9)).toBe('0.4/8.0 GB');
    expect(share(words.trans, 100e6, 512e6)).toBe('100/512 MB');
  });

  it('is never younger than now', () => expect(age(words.trans, -3)).toBe('0 s'));
});

describe('place', () => {
  it('says node, device and how full it is', () => {
    expect(place(session(), node(), words)).toBe('node-a · H200 0 · 34/141 GB');
  });

  it('says how much of the device it is', () => {
    const lease = { ...session().lease!, share: 0.5 };

    expect(place(session({ lease }), node(), words)).toBe('node-a · 0.5 of H200 0 · 34/141 GB');
  });

  it('says CPU plainly', () => {
    const device = { id: 'cpu:0', kind: 'cpu', label: 'CPU (8 GiB)', memory_bytes: 8e9 };
    const samples = [{ device_id: 'cpu:0', used_bytes: 2e9, utilisation: 0.1 }];
    const lease = {
      id: 'l',
      session_id: 's1',
      node_id: 'local-0',
      device_ids: ['cpu:0'],
      epoch: 1,
      share: 1
    };

    expect(
      place(session({ lease }), node({ id: 'local-0', devices: [device], samples }), words)
    ).toBe('local-0 · CPU · 2.0/8.0 GB');
  });

  it('says what a session waits for that has no place yet', () => {
    const waiting = session({ state: 'queued', queue_place: 2, lease: null });

    expect(place(waiting, undefined, words)).toBe('place 2 in the queue');
  });

  it('counts further devices', () => {
    const device = { kind: 'cuda', label: 'NVIDIA A100-SXM4-80GB', memory_bytes: 80e9 };
    const two = node({
      devices: [
        { ...device, id: 'cuda:0' },
        { ...device, id: 'cuda:1' }
      ],
      samples: []
    });
    const lease = {
      id: 'l',
      session_id: 's1',
      node_id: 'node-a',
      device_ids: ['cuda:0', 'cuda:1'],
      epoch: 1,
      share: 1
    };

    expect(place(session({ lease }), two, words)).toBe('node-a · A100-SXM4-80GB 0 +1 · 0.0/80 GB');
    expect(deviceName({ ...device, id: 'cuda:1' })).toBe('A100-SXM4-80GB 1');
  });
});

describe('room', () => {
  it.each([
    ['is free', node(), {}, true],
    ['is taken', node({ used: { 'cuda:0': 1 } }), {}, false],
    ['is held in part, where all of it is wanted', node({ used: { 'cuda:0': 0.5 } }), {}, false],
    ['has the part left', node({ used: { 'cuda:0': 0.666667 } }), { share: 1 / 3 }, true],
    ['has less than the part left', node({ used: { 'cuda:0': 0.6 } }), { share: 0.5 }, false],
    ['takes nothing new', node({ state: 'cordoned' }), {}, false],
    ['is of another kind', node(), { kind: 'cpu' }, false],
    ['is too small', node(), { memory_bytes: 200e9 }, false],
    ['is one of two wanted', node(), { devices: 2 }, false]
  ])('a device that %s', (_, where, wanted, expected) => {
    const request = { ...session().request, ...wanted };

    expect(hasRoom(where, session({ request }))).toBe(expected);
  });
});

describe('ending', () => {
  it('of a failed move says where the session still runs', () => {
    const failed = migration({ phase: 'failed', cause: 'the link broke' });

    expect(words.ending(failed, 'train.ipynb')).toBe(
      'train.ipynb still runs on node-a, with all its variables. The move to node-b failed: the link broke'
    );
  });
});

describe('names', () => {
  it('are paths of notebooks, or not', () => {
    expect(sessionTitle('/books/ann/models/train.ipynb')).toBe('train.ipynb');
    expect(sessionTitle('scratch')).toBe('scratch');
    expect(possiblePaths('/books/ann/train.ipynb')).toEqual([
      'train.ipynb',
      'ann/train.ipynb',
      'books/ann/train.ipynb'
    ]);
    expect(possiblePaths('scratch')).toEqual([]);
  });
});

describe('what a session has used', () => {
  const held = { ...session(), device_s: 3600, devices_since_s: 1000 };

  it('goes on while it holds devices, each of which counts', () => {
    const lease = { ...held.lease!, device_ids: ['cuda:0', 'cuda:1'] };

    expect(words.used({ ...held, lease }, node(), 1000 + 1800)).toBe('2.00 GPU-hours');
  });

  it('grows slower while it holds a part of one', () => {
    const lease = { ...held.lease!, share: 0.5 };

    expect(words.used({ ...held, lease }, node(), 1000 + 3600)).toBe('1.50 GPU-hours');
  });

  it('stands still while it holds none', () => {
    const parked = { ...held, lease: null, devices_since_s: 0 };

    expect(words.used(parked, undefined, 1e9)).toBe('1.00 device-hours');
  });

  it('is told finely while it is little', () => {
    expect(words.used({ ...held, device_s: 0 }, node(), 1036)).toBe('0.010 GPU-hours');
  });
});

describe('until when a session holds its devices', () => {
  it.each([
    [{}, 'until it is parked or released'],
    [{ parks_s: 2000 }, /^until .*, when it is parked if it stays idle$/],
    [{ ends_s: 2000 }, /^until .*, when it is ended if nobody attaches$/],
    [{ parks_s: 2000, ends_s: 3000 }, /parked/],
    [{ parks_s: 3000, ends_s: 2000 }, /ended/]
  ])('%j: %s', (facts, expected) => {
    expect(words.until(session(facts), 1000)).toMatch(expected);
  });
});
