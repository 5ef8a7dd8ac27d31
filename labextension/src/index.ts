/** The JupyterLab side of jupyter_gpuaas. Each plugin can be disabled by itself. */

import { choosePlugin } from './plugins/choose';
import { commandsPlugin } from './plugins/commands';
import { gpuaasPlugin } from './plugins/gpuaas';
import { outputsPlugin, recoveryPlugin } from './plugins/notebooks';
import { noticesPlugin } from './plugins/notices';
import { panelPlugin } from './plugins/panel';
import { runningPlugin } from './plugins/running';
import { statusPlugin } from './plugins/status';
import { toolbarPlugin } from './plugins/toolbar';

export { IGpuaas } from './tokens';

export default [
  gpuaasPlugin,
  commandsPlugin,
  toolbarPlugin,
  panelPlugin,
  statusPlugin,
  runningPlugin,
  noticesPlugin,
  outputsPlugin,
  recoveryPlugin,
  choosePlugin
];
