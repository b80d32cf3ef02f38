// One line for each element that breaks a rule of accessibility.
axe.run(document, { resultTypes: ["violations"] }).then(
  ({ violations }) => done(violations.flatMap(({ id, nodes }) => nodes.map((node) => ({
    rule: id,
    target: node.target.flat().join(" "),
    why: [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; "),
  })))),
  (error) => done([{ rule: "axe itself", target: "", why: String(error) }]),
);
