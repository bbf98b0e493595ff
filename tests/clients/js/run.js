// One case of one client: node run.js CLIENT CASE. The gateway's address, key and model come from the environment.
const [client, name] = process.argv.slice(2);
const { default: cases } = await import(`./${client}.js`);
const { BASE_URL: url, API_KEY: key, MODEL: model, ANSWER: answer } = process.env;
if (name === "--list") console.log(JSON.stringify(Object.keys(cases)));
else await cases[name]({ url, key, model, answer });
