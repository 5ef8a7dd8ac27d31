import { words } from '../../__tests__/facts';
import { NOTHING } from '../../model/state';
import type { IGpuaas } from '../../tokens';
import { releaseAll } from '../sessions';

const emit = jest.fn<string, [string, string]>(() => 'notice');

jest.mock('@jupyterlab/apputils', () => ({
  Dialog: { translator: { load: () => ({ __: (text: string) => text }) } },
  Notification: {
    emit: (message: string, type: string) => emit(message, type),
    dismiss: () => undefined
  }
}));

const release = jest.fn<Promise<unknown>, [string]>(async () => ({}));
const refresh = jest.fn(async () => undefined);
const gpuaas = {
  words,
  client: { release },
  store: { state: NOTHING },
  feed: { refresh }
} as unknown as IGpuaas;
const many = Array.from({ length: 30 }, (_, index) => `s${index}`);

beforeEach(() => jest.clearAllMocks());

describe('releasing all sessions', () => {
  it('ends each of them, and says so once', async () => {
    await releaseAll(gpuaas, many);

    expect(release.mock.calls.map(([id]) => id).sort()).toEqual([...many].sort());
    expect(emit.mock.calls).toEqual([
      ['Releasing 30 sessions…', 'in-progress'],
      ['30 sessions were released.', 'success']
    ]);
    expect(refresh).toHaveBeenCalled();
  });

  it('goes on where one cannot be ended, and says why', async () => {
    release.mockRejectedValueOnce(new Error('its node does not answer.'));
    await releaseAll(gpuaas, many);

    expect(release).toHaveBeenCalledTimes(30);
    expect(emit.mock.calls.at(-1)).toEqual([
      '29 of 30 sessions were released. its node does not answer.',
      'error'
    ]);
  });
});
