import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';

import { MoveNotices } from '../notices/moves';
import { IGpuaas } from '../tokens';

export const noticesPlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:notices',
  description: 'Notices about moves of remote sessions.',
  autoStart: true,
  requires: [IGpuaas],
  activate: (_: JupyterFrontEnd, gpuaas: IGpuaas) => {
    new MoveNotices(gpuaas);
  }
};
