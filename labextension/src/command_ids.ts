export namespace CommandIds {
  export const migrate = 'gpuaas:migrate';
  export const migrateKernel = 'gpuaas:migrate-kernel';
  export const cancelMigration = 'gpuaas:cancel-migration';
  export const checkpoint = 'gpuaas:checkpoint';
  export const restore = 'gpuaas:restore';
  export const name = 'gpuaas:name';
  export const forget = 'gpuaas:forget';
  export const park = 'gpuaas:park';
  export const wake = 'gpuaas:wake';
  export const release = 'gpuaas:release';
  export const open = 'gpuaas:open';
  export const attach = 'gpuaas:attach';
  export const choose = 'gpuaas:choose';
  export const launch = 'gpuaas:launch';
  export const cordon = 'gpuaas:cordon';
  export const uncordon = 'gpuaas:uncordon';
  export const drain = 'gpuaas:drain';
  export const stopDrain = 'gpuaas:stop-drain';
  export const startService = 'gpuaas:start-service';
  export const showPanel = 'gpuaas:show-panel';
}
