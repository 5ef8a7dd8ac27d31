// Units in jsdom. What they import must not import JupyterLab: that is tried in a browser (tests/ui).
module.exports = {
  testEnvironment: 'jsdom',
  testMatch: ['<rootDir>/src/**/__tests__/*.spec.ts?(x)'],
  transform: {
    '\\.tsx?$': [
      'ts-jest',
      {
        isolatedModules: true,
        tsconfig: { module: 'commonjs', jsx: 'react', target: 'ES2021', esModuleInterop: true }
      }
    ]
  }
};
