import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker } from '@jupyterlab/notebook';

import { Reconnection } from '../notices/connection';
import { MoveNotices } from '../notices/moves';
import { IGpuaas } from '../tokens';

export const noticesPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:notices',
  description: 'Notices about moves of remote sessions, and about the connection.',
  autoStart: true,
  requires: [IGpuaas, INotebookTracker],
  activate: (_: JupyterFrontEnd, gpuaas: IGpuaas, tracker: INotebookTracker) => {
    new MoveNotices(gpuaas);
    new Reconnection(gpuaas, tracker);
  }
};
