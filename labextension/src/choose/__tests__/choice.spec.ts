import type { NotebookPanel } from '@jupyterlab/notebook';

import { words } from '../../__tests__/facts';
import { Problem } from '../../api/problem';
import type { IGpuaas } from '../../tokens';
import { applyChoice, choiceOf } from '../choice';
import { ANY } from '../free';

const emit = jest.fn<string, [string, string]>(() => 'notice');

jest.mock('@jupyterlab/apputils', () => ({
  Dialog: { translator: { load: () => ({ __: (text: string) => text }) } },
  Notification: { emit: (message: string, type: string) => emit(message, type) }
}));

/** A notebook in whose metadata this stands. */
function noted(choice: object): NotebookPanel {
  const context = { ready: Promise.resolve(), path: 'work/a.ipynb' };
  return { context, model: { getMetadata: () => ({ choice }) } } as unknown as NotebookPanel;
}

describe('a choice that is put down again', () => {
  const choose = jest.fn<Promise<void>, [string, object]>();
  const gpuaas = { words, client: { choose } } as unknown as IGpuaas;
  beforeEach(() => jest.clearAllMocks());

  it('is the one in the notebook', async () => {
    choose.mockResolvedValue();
    await applyChoice(gpuaas, noted({ devices: 2 }));
    const request = { ...ANY, devices: 2 };
    expect(choose.mock.calls).toEqual([['work/a.ipynb', { request, session: null }]]);
    expect(emit).not.toHaveBeenCalled();
  });

  it('says why it does not count', async () => {
    choose.mockRejectedValue(new Problem('request.node: is no id of a node.', '', 422, 'X'));
    await applyChoice(gpuaas, noted({ devices: 1, node: '' }));
    const said =
      'The choice of devices in a.ipynb does not count: request.node: is no id of a node.';
    expect(emit.mock.calls).toEqual([[said, 'error']]);
  });

  it('leaves a server that is away to others', async () => {
    choose.mockRejectedValue(new Problem('away', '', 0, ''));
    await applyChoice(gpuaas, noted({ devices: 1 }));
    choose.mockRejectedValue(new Problem('away', '', 503, ''));
    await applyChoice(gpuaas, noted({ devices: 1 }));
    expect(emit).not.toHaveBeenCalled();
  });
});

describe('the part of a device that a notebook has noted', () => {
  it.each([
    [{ devices: 1, share: 0.5 }, 0.5],
    [{ devices: 1 }, 1],
    [{ devices: 2, share: 0.5 }, 1],
    [{ devices: 1, share: 0 }, 1],
    [{ devices: 1, share: 2 }, 1],
    [{ devices: 1, share: 'half' }, 1]
  ])('%j: %d', (choice, share) => {
    expect(choiceOf(noted(choice))).toEqual({ ...ANY, devices: choice.devices, share });
  });
});
