/** What devices a notebook wants: kept in its metadata, and put down at the server before its kernel starts. */

import type { NotebookPanel } from '@jupyterlab/notebook';

import { tellFailure } from '../acts/tell';
import { Problem } from '../api/problem';
import type { IResourceRequest } from '../api/types';
import { METADATA } from '../notebook/seen';
import type { IGpuaas } from '../tokens';
import { sessionTitle } from '../words/names';

type Ours = { readonly [key: string]: unknown };

/** Null where nothing was chosen, or what stands there makes no sense. */
export function choiceOf(panel: NotebookPanel): IResourceRequest | null {
  const ours = (panel.model?.getMetadata(METADATA) ?? {}) as Ours;
  const choice = ours['choice'] as Partial<IResourceRequest> | undefined;
  if (typeof choice !== 'object' || choice === null || typeof choice.devices !== 'number') {
    return null;
  }
  return {
    devices: choice.devices,
    kind: typeof choice.kind === 'string' ? choice.kind : null,
    memory_bytes: typeof choice.memory_bytes === 'number' ? choice.memory_bytes : 0,
    node: typeof choice.node === 'string' ? choice.node : null,
    standby: choice.standby === 1 ? 1 : 0,
    share: shareOf(choice)
  };
}

/** All of a device, unless a part of one makes sense. */
function shareOf({ devices, share }: Partial<IResourceRequest>): number {
  return devices === 1 && typeof share === 'number' && share > 0 && share < 1 ? share : 1;
}

export function keepChoice(panel: NotebookPanel, request: IResourceRequest): void {
  const ours = (panel.model?.getMetadata(METADATA) ?? {}) as Ours;
  panel.model?.setMetadata(METADATA, { ...ours, choice: { ...request } });
}

/** Put a notebook's choice down again, for where it was not made on this machine; one that cannot be had is told of. */
export async function applyChoice(gpuaas: IGpuaas, panel: NotebookPanel): Promise<void> {
  await panel.context.ready;
  const request = choiceOf(panel);
  if (request === null) {
    return;
  }
  const { path } = panel.context;
  try {
    await gpuaas.client.choose(path, { request, session: null });
  } catch (error) {
    // A server that is away is told of elsewhere.
    if (error instanceof Problem && error.status >= 400 && error.status < 500) {
      const { trans } = gpuaas.words;
      tellFailure(
        trans.__('The choice of devices in %1 does not count: %2', sessionTitle(path), error.text)
      );
    }
  }
}
