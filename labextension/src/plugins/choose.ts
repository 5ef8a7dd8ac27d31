import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { URLExt } from '@jupyterlab/coreutils';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker } from '@jupyterlab/notebook';

import { applyChoice } from '../choose/choice';
import { chooseDevices, launchNotebook } from '../choose/ask';
import { CommandIds } from '../command_ids';
import { gpuIcon } from '../icons';
import { IGpuaas } from '../tokens';

/** The picture of the kernel that the card is of. */
const LOGO = 'kernelspecs/remote_gpu/logo-svg.svg';

export const choosePlugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-gpuaas:choose',
  description:
    'Asks for kind, number and memory of the devices that a notebook wants, and remembers the answer.',
  autoStart: true,
  requires: [IGpuaas, INotebookTracker],
  optional: [ILauncher, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    gpuaas: IGpuaas,
    tracker: INotebookTracker,
    launcher: ILauncher | null,
    palette: ICommandPalette | null
  ) => {
    const { commands } = app;
    const { trans } = gpuaas.words;
    tracker.widgetAdded.connect((_, panel) => void applyChoice(gpuaas, panel));
    commands.addCommand(CommandIds.choose, {
      label: trans.__('Choose Devices…'),
      caption: trans.__('Say which devices the session of this notebook should have'),
      isEnabled: () => gpuaas.currentPanel !== null,
      describedBy: { args: { type: 'object', properties: {} } },
      execute: async () => {
        if (gpuaas.currentPanel !== null) {
          await chooseDevices(gpuaas, gpuaas.currentPanel);
        }
      }
    });
    commands.addCommand(CommandIds.launch, {
      label: trans.__('Remote GPU…'),
      caption: trans.__('A notebook whose session runs on devices that you choose'),
      icon: gpuIcon,
      describedBy: {
        args: {
          type: 'object',
          properties: { cwd: { type: 'string', description: 'Folder of the new notebook.' } }
        }
      },
      execute: args => launchNotebook(app, gpuaas, String(args['cwd'] ?? ''))
    });
    launcher?.add({
      command: CommandIds.launch,
      category: trans.__('Notebook'),
      rank: 50,
      kernelIconUrl: URLExt.join(app.serviceManager.serverSettings.baseUrl, LOGO)
    });
    palette?.addItem({ command: CommandIds.choose, category: trans.__('Remote Sessions') });
  }
};
