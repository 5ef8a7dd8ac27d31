/** What an admin can do with nodes: let them take no new sessions, or move those away that they have. */

import { Dialog } from '@jupyterlab/apputils';

import { DrainBody } from '../drain/body';
import { OwnDialog } from '../migrate/own_dialog';
import type { IGpuaas } from '../tokens';
import { trying } from './tell';

const MINUTE_S = 60;

/** Let a node take no new sessions, or take them again. */
export async function cordon(gpuaas: IGpuaas, node: string, isCordoned: boolean): Promise<void> {
  const { client, feed } = gpuaas;
  await trying(() => (isCordoned ? client.cordon(node) : client.uncordon(node)));
  await feed.refresh();
}

/** Begin to move all sessions off a node, after asking until when. */
export async function drain(gpuaas: IGpuaas, node: string): Promise<void> {
  const { client, feed, words, store } = gpuaas;
  const sessions = [...store.state.sessions.values()];
  const count = sessions.filter(({ lease }) => lease?.node_id === node).length;
  const { button, value } = await new OwnDialog({
    title: words.trans.__('Drain %1?', node),
    body: new DrainBody(words, count),
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: words.trans.__('Drain') })],
    focusNodeSelector: 'input'
  }).launch();
  if (button.accept && value !== null) {
    await trying(() => client.drain(node, value.minutes * MINUTE_S, value.acceptLoss));
    await feed.refresh();
  }
}

/** Move no further session off a node, which still takes no new ones. */
export async function stopDrain(gpuaas: IGpuaas, node: string): Promise<void> {
  await trying(() => gpuaas.client.stopDrain(node));
  await gpuaas.feed.refresh();
}
