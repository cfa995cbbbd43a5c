import java.nio.file.Files;
import java.nio.file.Path;
import org.verapdf.gf.foundry.VeraGreenfieldFoundryProvider;
import org.verapdf.pdfa.Foundries;
import org.verapdf.pdfa.flavours.PDFAFlavour;

/** Has veraPDF judge PDF files by PDF/UA-1: prints each rule that a file breaks; exits 1 where there is one. */
public class PdfCheck {
    public static void main(String[] files) throws Exception {
        VeraGreenfieldFoundryProvider.initialise();
        int accepted = 0;
        long checks = 0;
        for (String file : files) {
            try (var content = Files.newInputStream(Path.of(file));
                 var parser = Foundries.defaultInstance().createParser(content, PDFAFlavour.PDFUA_1);
                 var validator = Foundries.defaultInstance().createValidator(PDFAFlavour.PDFUA_1, false)) {
                var result = validator.validate(parser);
                checks += result.getTotalAssertions();
                accepted += result.isCompliant() ? 1 : 0;
                for (var broken : result.getTestAssertions()) {
                    System.out.println(file + ": " + broken.getRuleId().getClause() + ": " + broken.getMessage());
                }
            }
        }
        System.out.println(accepted + " of " + files.length + " files are PDF/UA-1 (" + checks + " checks)");
        System.exit(accepted == files.length && files.length > 0 ? 0 : 1);
    }
}
