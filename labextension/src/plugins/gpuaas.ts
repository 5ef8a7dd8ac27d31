import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import { Gpuaas } from '../gpuaas';
import { IGpuaas } from '../tokens';

export const gpuaasPlugin: JupyterFrontEndPlugin<IGpuaas> = {
  id: 'jupyter-gpuaas:sessions',
  description: 'What is known of remote sessions; the other plugins of this extension show it.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ITranslator],
  provides: IGpuaas,
  activate: (app: JupyterFrontEnd, tracker: INotebookTracker, translator: ITranslator | null) =>
    new Gpuaas(app.serviceManager, tracker, (translator ?? nullTranslator).load('jupyter_gpuaas'))
};
