import type { NotebookPanel } from '@jupyterlab/notebook';

import { choiceOf } from '../choice';
import { ANY } from '../free';

/** A notebook in whose metadata this stands. */
function noted(choice: object): NotebookPanel {
  return { model: { getMetadata: () => ({ choice }) } } as unknown as NotebookPanel;
}

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
