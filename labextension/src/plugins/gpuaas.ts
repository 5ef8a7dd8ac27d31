import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator, type TranslationBundle } from '@jupyterlab/translation';

import { Gpuaas } from '../gpuaas';
import { IGpuaas } from '../tokens';

/** Widgets in cells, which are scripts of their own, ask the page for a translator by this event. */
const ASKED = 'jupyter-gpuaas:translator';

export const gpuaasPlugin: JupyterFrontEndPlugin<IGpuaas> = {
  id: 'jupyter-gpuaas:sessions',
  description: 'What is known of remote sessions; the other plugins of this extension show it.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ITranslator, ISettingRegistry],
  provides: IGpuaas,
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    translator: ITranslator | null,
    registry: ISettingRegistry | null
  ) => {
    const trans = (translator ?? nullTranslator).load('jupyter_gpuaas');
    document.addEventListener(ASKED, event => {
      (event as CustomEvent<{ trans?: TranslationBundle }>).detail.trans = trans;
    });
    const gpuaas = new Gpuaas(app.serviceManager, tracker, trans);
    if (registry !== null) {
      void gpuaas.preferences.follow(registry, gpuaasPlugin.id);
    }
    return gpuaas;
  }
};
